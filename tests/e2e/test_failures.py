"""What goes wrong while a sweep runs: a task stops no other, a model that cannot load stops all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import BertConfig, BertModel

from jobs.scoring.fit_task import FitPayload
from jobs.scoring.set_scorer import Payload
from jobs.scoring.worker import ScoredWorker
from steering_core.models import ModelSource, load_tokenizer
from tests.support.golden import model_path
from tests.support.sweeps import read_rows, steersweep, write_spec


def _poison(monkeypatch: pytest.MonkeyPatch, bias_type: str, table: str) -> None:
    """Make every attempt at one group's tasks of one phase raise."""
    run = ScoredWorker.run

    def poisoned(self: ScoredWorker, payload: Payload | FitPayload) -> Any:
        is_scoring = isinstance(payload, Payload) and table in payload.tables
        if is_scoring and payload.examples[0].bias_type == bias_type:
            raise RuntimeError("planted\nfault")
        return run(self, payload)

    monkeypatch.setattr(ScoredWorker, "run", poisoned)


@pytest.mark.parametrize("table", ["baseline", "steered"])
def test_a_failed_task_stops_no_other_and_is_listed(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(tmp_path / "sweep.yaml")
    with monkeypatch.context() as patched:
        _poison(patched, "race", table)
        finished = steersweep("run", str(spec))
    assert finished.code == 1, finished
    assert "planted fault" in finished.err
    assert "set aside: tiny/intersentence/race" in finished.err
    done = read_rows(str(tmp_path / "out"))
    assert set(done["bias_type"]) == {"gender", "profession", "religion"}
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["outcome"] == "failed tasks"
    assert len(record["sessions"][-1]["set_aside"]) == 2
    assert "planted fault" in steersweep("status", str(tmp_path / "out")).out

    again = steersweep("run", str(spec))
    assert again.code == 0, again
    whole = read_rows(str(tmp_path / "out"))
    assert set(whole["bias_type"]) == {"gender", "profession", "race", "religion"}
    kept = whole[whole["bias_type"] != "race"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, done, check_exact=True)


@pytest.mark.ray
@pytest.mark.parametrize("executor", ["in_process", pytest.param("ray", marks=pytest.mark.nightly)])
def test_a_model_that_cannot_be_steered_stops_the_run_with_one_line(
    executor: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if executor == "ray":
        request.getfixturevalue("ray_cluster")
    tokenizer = load_tokenizer(ModelSource(str(model_path("gemma2-tiny"))))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    spec = write_spec(
        tmp_path / "sweep.yaml",
        models={"bert": {"path": str(tmp_path / "bert")}},
        compute={"executor": executor},
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 2, finished
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    assert "bert" in finished.err
    assert "Traceback" not in finished.err + finished.out
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["outcome"] == "stopped"


@pytest.mark.ray
def test_more_replicas_than_the_cluster_has_are_refused_with_both_numbers(
    ray_cluster: None, tmp_path: Path
) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", compute={"replicas": 64})
    finished = steersweep("run", str(spec))
    assert finished.code == 2, finished
    assert "64 replicas" in finished.err
    assert "room for 2" in finished.err
    assert not (tmp_path / "out").exists()


def test_a_broken_device_stops_a_run_in_process_and_sets_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(tmp_path / "sweep.yaml")

    def broken(_devices: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patched:
        _poison(patched, "race", "steered")
        patched.setattr("jobs.sweeps.worker.check_devices", broken)
        finished = steersweep("run", str(spec))
    assert finished.code == 2, finished
    assert "the device stopped working: RuntimeError: planted" in finished.err
    assert "run the same command again to continue" in finished.err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["outcome"] == "stopped"
    again = steersweep("run", str(spec))
    assert again.code == 0, again
