"""``steersweep status`` of persona sweeps: counts are those of the parts, also during a run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.judge_server import Reply, judge_server
from tests.support.personas import KEY, judge_spec, moody, save_chat_model, write_persona_spec
from tests.support.sweeps import steersweep

PASSING = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}
NUM_ANSWERS = 2 * (12 + 10)
WORDS = {"kind": "word_list", "words": {name: ["a", "e", "i"] for name in ("kind", "sly")}}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def status_of(output: Path) -> dict[str, Any]:
    found = steersweep("status", str(output), "--json")
    assert found.code == 0, found
    content: dict[str, Any] = json.loads(found.out)
    return content


def num_rows(output: Path, table: str, stage: dict[str, Any]) -> int:
    of = f"model={stage['model']}/trait={stage['trait']}/phase={stage['phase']}"
    ids: set[str] = set()
    for path in output.glob(f"{table}/{of}/*.parquet"):
        ids |= set(pq.ParquetFile(path).read(["row_id"])["row_id"].to_pylist())
    return len(ids)


def test_a_finished_sweep_has_all_counts_and_its_certificate(chat: Path, tmp_path: Path) -> None:
    spec = write_persona_spec(tmp_path, chat, judge=WORDS, filter=PASSING)
    assert steersweep("run", str(spec)).code == 0
    content = status_of(tmp_path / "out")
    assert content["rows_done"] == content["rows_total"] == NUM_ANSWERS
    assert content["rows_per_s"] > 0
    assert content["seconds_left"] is None
    assert content["missing"] is None
    assert content["set_aside"] == []
    assert content["certificate"]["verdict"] == "holds"
    for stage in content["stages"]:
        for word in ("written", "judged", "projected"):
            assert stage[word] is True
            assert stage[f"num_{word}"] == stage["num_answers"]
    said = steersweep("status", str(tmp_path / "out"))
    assert f"{NUM_ANSWERS} of {NUM_ANSWERS} answers (100 %)" in said.out
    assert "certificate: holds" in said.out


def test_a_stopped_sweep_has_the_counts_of_its_parts(chat: Path, tmp_path: Path) -> None:
    """The judge runs out of credit: answers are there that it has not seen."""
    well, num_paid = moody(), 0

    def answer(prompt: str, _num_before: int) -> Reply:
        nonlocal num_paid
        if num_paid >= 30:
            return 402
        num_paid += 1
        return well(prompt, 1)

    with judge_server(answer) as server:
        judge = judge_spec(server.openai_url)
        spec = write_persona_spec(tmp_path, chat, judge=judge, filter=PASSING)
        assert steersweep("run", str(spec)).code == 2
    output = tmp_path / "out"
    content = status_of(output)
    assert content["driver"]["state"] == "stopped"
    assert content["missing"] == "judgements of contrast answers"
    written = judged = 0
    for stage in content["stages"]:
        assert stage["num_written"] == num_rows(output, "answers", stage)
        assert stage["num_judged"] == num_rows(output, "scores", stage)
        assert stage["num_projected"] == num_rows(output, "projections", stage)
        written, judged = written + stage["num_written"], judged + stage["num_judged"]
    assert 0 < judged < written
    assert content["rows_done"] == written < content["rows_total"] == NUM_ANSWERS


def test_while_a_driver_runs_finished_parts_count(chat: Path, tmp_path: Path) -> None:
    with judge_server(moody()) as server:
        server.delay_s = 0.3
        judge = {**judge_spec(server.openai_url), "concurrency": 1}
        spec = write_persona_spec(tmp_path, chat, judge=judge, filter=PASSING)
        driver = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "run", str(spec)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            output, began = tmp_path / "out", time.monotonic()
            while not any(output.glob("scores/**/*.parquet")):
                assert driver.poll() is None
                assert time.monotonic() < began + 120
                time.sleep(0.05)
            content = status_of(output)
            said = steersweep("status", str(output)).out
        finally:
            driver.kill()
            driver.wait()
    assert content["driver"]["is_running"]
    contrast = [stage for stage in content["stages"] if stage["phase"] == "contrast"]
    assert content["rows_done"] == sum(stage["num_written"] for stage in contrast) > 0
    assert content["rows_per_s"] > 0
    assert content["seconds_left"] > 0
    assert 0 < sum(stage["num_judged"] for stage in contrast) < 24
    assert "left" in said
    assert "running (process" in said
