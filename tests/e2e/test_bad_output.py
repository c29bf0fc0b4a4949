"""A report of an output that is damaged: one clear line, and nothing written over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.sweeps import steersweep, write_spec


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    data = {"path": "embedded:examples.json", "bias_types": ["gender", "race"]}
    spec = write_spec(folder / "sweep.yaml", data=data)
    assert steersweep("run", str(spec)).code == 0
    return folder / "out"


def _part(output: Path, table: str) -> Path:
    return min((output / table).rglob("*.parquet"))


def _truncate(output: Path) -> None:
    part = _part(output, "steered")
    part.write_bytes(part.read_bytes()[:300])


def _make_newer(output: Path) -> None:
    record = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps(record | {"record_version": 9}))


def _make_other(output: Path) -> None:
    # The part of one task under the name of another.
    parts = sorted((output / "steered").rglob("*.parquet"))
    shutil.copy(parts[1], parts[0])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_truncate, "is not a complete Parquet file; delete it to have it recomputed"),
        (
            _make_newer,
            "has record version 9, but this steersweep reads versions up to 1; use a newer",
        ),
        (_make_other, "delete it to have it recomputed"),
    ],
)
def test_a_damaged_output_is_one_line_and_keeps_its_summary(
    damage: Callable[[Path], None], says: str, finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    shutil.rmtree(output / "summary")
    damage(output)
    refused = steersweep("report", str(output))
    assert refused.code == 2
    assert refused.err.startswith("error: ")
    assert refused.err.count("\n") == 1
    assert says in " ".join(refused.err.split())
    assert not (output / "summary").exists()


def test_a_result_by_an_unknown_column_is_refused(finished: Path) -> None:
    refused = steersweep("report", str(finished), "--by", "layer,colour")
    assert refused.code == 2
    assert refused.out == ""
    assert refused.err.startswith("error: --by takes ")
    assert refused.err.count("\n") == 1
    assert "got 'colour'" in refused.err


def test_a_group_that_lost_its_baseline_is_named_and_the_rest_is_reported(
    finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    shutil.rmtree(output / "baseline/model=tiny/split=intersentence/bias_type=race")
    (output / "checked.parquet").unlink()
    made = steersweep("report", str(output))
    assert made.code == 0
    line = "tiny/intersentence/race has steered rows but lacks 1 part of its baseline"
    assert line in " ".join(made.err.split())
    assert "8 of 32 cells are not complete" in " ".join(made.err.split())
    page = (output / "report.html").read_text()
    assert "Some groups have steered rows but lack part of their baseline" in page
    assert "tiny/intersentence/race" in page
