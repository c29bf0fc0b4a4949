"""``steersweep.run``, ``report`` and ``verify``: the commands as functions."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import steersweep
from jobs import in_python
from steersweep.errors import UserError
from tests.support.stored_outputs import STORED_OUTPUTS, copy_stored_output
from tests.support.sweeps import steersweep as command
from tests.support.sweeps import write_spec


def test_a_sweep_is_run_and_its_results_are_those_of_load(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml")
    overrides = {
        "data.limit": np.int64(2),
        "data.splits": ["intersentence"],
        "data.bias_types": ("gender",),
        "steering.layers": np.asarray([1]),
        "models.tiny.path": "embedded:gemma2-tiny",
    }
    results = steersweep.run(spec, overrides, str(tmp_path / "other"), figures=False)
    assert (results.uri, results.outcome) == (str(tmp_path / "other"), "done")
    assert not (tmp_path / "out").exists()
    assert (len(results.baseline), len(results.steered)) == (2, 4)
    assert results.baseline.equals(steersweep.load(str(tmp_path / "other")).baseline)
    assert steersweep.verify(results.uri, rows=2)
    with pytest.raises(UserError, match=r"data\.limit"):
        steersweep.run(spec, {"data.limit": -1})
    with pytest.raises(
        UserError, match=r"data\.limit: must be a value of a sweep file, got <object"
    ):
        steersweep.run(spec, {"data.limit": object()})
    with pytest.raises(UserError, match="rows must be at least 1, got 0"):
        steersweep.verify(results.uri, rows=0)


def test_a_plan_is_plain_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = write_spec(tmp_path / "sweep.yaml")
    found = steersweep.plan(spec, {"data.limit": 2}, device="h100", replicas=3)
    assert found["output"] == str(tmp_path / "out")
    assert found["device"] == "h100"
    assert found["num_tasks"] > found["num_tasks_done"] == 0
    copy_stored_output("persona", tmp_path)
    left = steersweep.plan("persona.yaml", output=str(tmp_path / "new"))
    assert sum(phase["num_answers"] for phase in left["phases"]) == 2 * (12 + 2 * (2 * 2 + 1))
    assert json.loads(json.dumps([found, left])) == [found, left]
    with pytest.raises(UserError, match="generation times are only"):
        steersweep.plan("persona.yaml", device="h100")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["stereoset-stopped", "persona-stopped"])
def test_the_status_is_that_of_the_command(name: str) -> None:
    uri = str(STORED_OUTPUTS / name)
    found = steersweep.status(uri)
    printed = command("status", uri, "--json")
    assert printed.code == 0, printed
    assert json.loads(printed.out) == found
    assert found["output"] == uri


def test_a_report_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = copy_stored_output("persona", tmp_path)
    results = steersweep.report(str(output), figures=False)
    assert (output / "report.html").is_file()
    assert not (output / "figures").exists()
    assert len(results.answers) == 48
    with pytest.raises(UserError, match="holds no run"):
        steersweep.report(str(tmp_path / "nothing"))


def test_an_interrupted_run_leaves_the_notebook_its_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("jobs.stereoset.job.resolve", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        steersweep.run(write_spec(tmp_path / "sweep.yaml"))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_another_thread_is_refused(tmp_path: Path) -> None:
    found: list[Exception] = []

    def in_a_thread() -> None:
        try:
            in_python.run(write_spec(tmp_path / "sweep.yaml"))
        except UserError as error:
            found.append(error)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert "from the main thread only" in str(found[0])
    assert not (tmp_path / "out").exists()
