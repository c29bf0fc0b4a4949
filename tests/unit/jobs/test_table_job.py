"""What every job with tables gets, seen at the job of the tests."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.page.table import MISSING, table_of_rows
from jobs.sweeps.registry import registered
from jobs.sweeps.verified import Recomputed
from tests.support.job_cases import part_keys, write_toy_spec
from tests.support.sweeps import change_part, steersweep
from tests.support.toy_job import LettersJob


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("letters")
    with registered(LettersJob()):
        assert steersweep("run", str(write_toy_spec(folder, folder))).code == 0
        yield folder


def test_verify_sees_a_score_that_is_wrong(finished: Path, tmp_path: Path) -> None:
    output = shutil.copytree(finished / "out", tmp_path / "out")

    def off(table: pa.Table) -> pa.Table:
        scores = pa.array([score - 0.5 for score in table["score"].to_pylist()])
        return table.set_column(2, table.field(2), scores)

    key = next(key for key in part_keys(str(output)) if key.startswith("scores/"))
    change_part(output, key, off)
    done = steersweep("verify", str(output), "--rows", "100", "--json")
    assert done.code == 1
    content = json.loads(done.out)
    assert content["verdict"] == "broken"
    assert content["rows"][0]["largest_difference"] == pytest.approx(0.5)
    assert "differs by 0.5" in done.err


def test_a_difference_that_is_no_number_is_broken() -> None:
    assert Recomputed("scores", {"a": 0.0, "b": math.nan}).verdict == "broken"
    assert Recomputed("scores", {"a": 1e-6}, tolerance=1e-5).verdict == "holds"
    assert Recomputed("scores", {"a": 1e-6}).verdict == "broken"
    assert Recomputed("scores", {}).verdict == "not checked"


def test_status_says_why_progress_is_not_known(finished: Path, tmp_path: Path) -> None:
    output = shutil.copytree(finished / "out", tmp_path / "out")
    known = json.loads(steersweep("status", str(output), "--json").out)
    assert [(of["num_items_done"], of["num_items"]) for of in known["stages"]] == [
        (9, 9), (18, 18), (18, 18),
    ]  # fmt: skip
    record = json.loads((output / "run.json").read_text())
    record["spec"]["texts"] = "gone.jsonl"
    (output / "run.json").write_text(json.dumps(record))
    done = steersweep("status", str(output), "--json")
    assert done.code == 0, done
    assert json.loads(done.out)["stages"] is None
    assert "progress is not known" in done.err
    assert "gone.jsonl" in done.err


def test_options_of_another_jobs_report_are_refused(finished: Path) -> None:
    done = steersweep("report", str(finished / "out"), "--by", "weight")
    assert done.code == 2
    assert "not available for job: letters" in done.err


def test_the_page_shows_every_table(finished: Path) -> None:
    page = (finished / "out" / "report.html").read_text()
    for text in ("Which texts consist of common letters?", "score_mean", "verdict_count"):
        assert text in page
    assert "not complete" not in page


def test_cells_of_any_rows() -> None:
    rows = pa.table({"name": ["a", None], "share": [0.25, math.nan], "num": [1200, 3]})
    table = table_of_rows("x", "X", rows)
    assert [column.is_number for column in table.columns] == [False, True, True]
    assert [cell.text for cell in table.rows[0]] == ["a", "0.2500", "1,200"]
    assert table.rows[1][:2] == (MISSING, MISSING)
