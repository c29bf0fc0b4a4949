"""A run goes on where it was stopped, grows with its grid, and refuses to become another sweep."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import psutil
import pytest
import yaml

from cluster.lease import Lease
from cluster.parts import read_part
from cluster.storage import StorageSpec
from jobs.resources import local_path
from tests.support.s3 import Fault, S3Server
from tests.support.sweeps import part_keys, read_rows, steersweep, write_spec

STEERING = {"layers": [1, 4], "coeffs": [-3, 400]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole small sweep, run once without disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = steersweep("run", str(write_spec(folder / "sweep.yaml", steering=STEERING)))
    assert finished.code == 0, finished
    return folder / "out"


def _start(spec: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "run", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def _stop_half_way(process: subprocess.Popen[str], output: Path, number: int) -> dict[str, int]:
    """Send a signal once a few parts are there; the parts that are left then, by write time.

    A replica commits what it has ready until it sees that its driver is gone.
    """
    deadline = time.monotonic() + 180
    while len(part_keys(str(output))) < 6:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait(60)
    _wait_for_end(below)
    return _write_times(output)


def _wait_for_end(below: list[psutil.Process]) -> None:
    """But for Ray's own agents, which notice after a minute that their node is gone."""
    ours = []
    for each in below:
        with suppress(psutil.NoSuchProcess):
            if not each.name().endswith("Agent"):
                ours.append(each)
    _, alive = psutil.wait_procs(ours, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], alive


def _write_times(output: Path) -> dict[str, int]:
    return {key: (output / key).stat().st_mtime_ns for key in part_keys(str(output))}


def _assert_same_rows(output: Path, other: Path) -> None:
    for table in ("baseline", "steered"):
        pd.testing.assert_frame_equal(
            read_rows(str(output), table), read_rows(str(other), table), check_exact=True
        )


SMALL_TASKS = {"executor": "in_process", "examples_per_task": 1}


@pytest.fixture(scope="module")
def undisturbed_small_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep in many small tasks, so that there is time to stop between them."""
    folder = tmp_path_factory.mktemp("small")
    spec = write_spec(folder / "sweep.yaml", steering=STEERING, compute=SMALL_TASKS)
    assert steersweep("run", str(spec)).code == 0
    return folder / "out"


@pytest.mark.parametrize(
    ("executor", "number"),
    [
        # SIGTERM is as SIGINT there, and a cluster of its own takes half a minute.
        pytest.param("ray", signal.SIGKILL, marks=pytest.mark.ray),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.ray),
        ("in_process", signal.SIGKILL),
        ("in_process", signal.SIGINT),
        ("in_process", signal.SIGTERM),
    ],
)
def test_a_stopped_driver_goes_on_and_computes_nothing_twice(
    executor: str, number: int, undisturbed_small_tasks: Path, tmp_path: Path
) -> None:
    compute = SMALL_TASKS | {"executor": executor, "replicas": 2}
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING, compute=compute)
    output = tmp_path / "out"

    process = _start(spec, RAY_ADDRESS="local")
    kept = _stop_half_way(process, output, number)
    text = process.stdout.read() if process.stdout else ""

    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), text
    assert len(kept) < 24 * 3, "stopped too late to show anything"
    if number != signal.SIGKILL:
        assert "the same command resumes it" in text
        assert "Traceback" not in text
    again = steersweep("run", str(spec), "--set", "compute.executor=in_process")
    assert again.code == 0, again
    assert f"{_num_tasks_done(kept)} of them done before" in again.out
    after = _write_times(output)
    assert {key: after[key] for key in kept} == kept
    _assert_same_rows(output, undisturbed_small_tasks)


def test_a_killed_driver_goes_on_with_the_states_that_are_there(tmp_path: Path) -> None:
    """With a method that needs states, a killed run is one that was never disturbed."""
    options: dict[str, Any] = {"vectors": {"method": "whitened"}, "compute": SMALL_TASKS}
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING, **options)
    process = _start(spec)
    kept = _stop_half_way(process, tmp_path / "out", signal.SIGKILL)
    assert any(key.startswith("states/") for key in kept)
    assert len(kept) < 24 * 4, "stopped too late to show anything"

    again = steersweep("run", str(spec))

    assert again.code == 0, again
    assert f"{_num_tasks_done(kept)} of them done before" in again.out
    after = _write_times(tmp_path / "out")
    assert {key: after[key] for key in kept} == kept
    whole = write_spec(
        tmp_path / "whole.yaml", steering=STEERING, **options, output=str(tmp_path / "whole")
    )
    assert steersweep("run", str(whole)).code == 0
    _assert_same_rows(tmp_path / "out", tmp_path / "whole")


@pytest.mark.ray
@pytest.mark.parametrize("when", ["starting", "running"])
def test_a_second_ctrl_c_leaves_at_once_and_nothing_behind(when: str, tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml", steering=STEERING, compute={"executor": "ray", "replicas": 1}
    )
    process = _start(spec, RAY_ADDRESS="local")
    run = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    output = tmp_path / "out"
    while not (len(run.children()) > 3 if when == "starting" else part_keys(str(output))):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    below = run.children(recursive=True)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    _wait_for_end(below)
    storage = StorageSpec(str(output)).open()
    for key in part_keys(str(output)):
        read_part(storage, key)
    assert steersweep("run", str(spec), "--set", "compute.executor=in_process").code == 0


def test_ctrl_c_while_the_store_is_away_ends_within_seconds(
    s3_uri: str, s3_faults: S3Server, tmp_path: Path
) -> None:
    """Before anything runs, too: the lock that is given back then is asked for in haste."""

    def go_away(*_: object) -> None:
        away = [Fault(method, status=503, times=10**6) for method in ("GET", "HEAD", "PUT")]
        s3_faults.faults += away
        raise KeyboardInterrupt

    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING, output=s3_uri)
    with mock.patch("jobs.stereoset.output.write_checked", go_away):
        start = time.monotonic()
        finished = steersweep("run", str(spec))
    assert finished.code == 130, finished
    assert "interrupted" in finished.out
    assert time.monotonic() - start < 30


def _num_tasks_done(kept: dict[str, int]) -> int:
    """A task is done with its last part: sums and states alone are not enough."""
    return sum(not key.startswith(("sums/", "states/")) for key in kept)


GROWN = {
    "a coefficient": {"steering": STEERING | {"coeffs": [-3, 400, 0.5]}},
    "a layer": {"steering": STEERING | {"layers": [1, 2, 4]}},
    "a bias type": {"data": {"bias_types": ["gender", "race", "religion"]}},
    "a split": {"data": {"splits": ["intersentence", "intrasentence"]}},
    "a model": {"models": {"other": {"path": "embedded:gemma2-tiny"}}},
}


@pytest.mark.parametrize("what", list(GROWN))
def test_growing_the_grid_computes_only_what_is_missing(what: str, tmp_path: Path) -> None:
    data = {"path": "embedded:examples.json", "splits": ["intersentence"]}
    small: dict[str, Any] = {
        "models": {"tiny": {"path": "embedded:gemma2-tiny"}},
        "data": data | {"bias_types": ["gender", "race"]},
        "steering": STEERING,
    }
    large = {key: small[key] | GROWN[what].get(key, {}) for key in small}
    output = tmp_path / "out"
    spec = write_spec(tmp_path / "sweep.yaml", **small)
    assert steersweep("run", str(spec)).code == 0
    kept = _write_times(output)

    write_spec(spec, **large)
    grown = steersweep("run", str(spec))
    assert grown.code == 0, grown

    after = _write_times(output)
    assert {key: after[key] for key in kept} == kept
    rows = read_rows(str(output))
    cells = ["model", "split", "bias_type", "layer", "coeff", "example_id"]
    assert not rows.duplicated(cells).any()
    whole = write_spec(tmp_path / "whole.yaml", **large, output=str(tmp_path / "whole"))
    assert steersweep("run", str(whole)).code == 0
    wanted = read_rows(str(tmp_path / "whole"))
    pd.testing.assert_frame_equal(
        rows.drop(columns="task_id"), wanted.drop(columns="task_id"), check_exact=True
    )
    summaries = [pd.read_parquet(o / "summary/cells.parquet") for o in (output, tmp_path / "whole")]
    pd.testing.assert_frame_equal(*summaries, check_exact=True)
    again = steersweep("run", str(spec))
    assert (again.code, "nothing left to compute" in again.out) == (0, True)


def _other_weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file, save_file

    copy = folder / "weights"
    shutil.copytree(local_path("embedded:gemma2-tiny"), copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] += 0.1
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return {"models": {"tiny": {"path": str(copy)}}}


def _other_data(folder: Path) -> dict[str, Any]:
    text = Path(local_path("embedded:examples.json")).read_text()
    (folder / "dev.json").write_text(text.replace("nurse", "baker"))
    return {"data": {"path": str(folder / "dev.json")}}


DATA = {"path": "embedded:examples.json"}
CHANGES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "limit": ({"data": DATA | {"limit": 2}}, ("data.limit: None -> 2 (it decides which",)),
    "seed": ({"data": DATA | {"seed": 3}}, ("data.seed: 0 -> 3",)),
    "scoring": ({"scoring": "aligned"}, ("scoring: as_published -> aligned",)),
    "pooling": ({"vectors": {"pooling": "candidate"}}, ("vectors.pooling",)),
    "method": ({"vectors": {"method": "pca"}}, ("vectors.method: mean_difference -> pca",)),
    "apply": ({"steering": STEERING | {"apply": "resid_post"}}, ("steering.apply",)),
    "protocol": ({"protocol": "aligned", "vectors": {"folds": 1}}, ("scoring", "vectors.pooling")),
    "dtype": (
        {"models": {"tiny": {"path": "embedded:gemma2-tiny", "dtype": "bfloat16"}}},
        ("models.tiny.dtype: float32 -> bfloat16",),
    ),
    "weights": (_other_weights, ("models.tiny (weights)",)),
    "data": (_other_data, ("data (content)",)),
    "a coefficient less": ({"steering": STEERING | {"coeffs": [-3]}}, ("coeffs: 400 is gone",)),
    "a model renamed": ({"models": {"x": {"path": "embedded:gemma2-tiny"}}}, ("tiny is gone",)),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_any_other_change_is_refused_with_the_keys_that_differ(
    what: str, undisturbed: Path, tmp_path: Path
) -> None:
    change, says = CHANGES[what]
    changed = change(tmp_path) if callable(change) else change
    before = {f: f.read_bytes() for f in undisturbed.rglob("*") if f.is_file()}
    spec = write_spec(
        tmp_path / "sweep.yaml", **({"steering": STEERING} | changed), output=str(undisturbed)
    )

    finished = steersweep("run", str(spec))

    assert finished.code == 2, finished
    # A line for each change of several, between the heading and what to do.
    assert finished.err.count("\n") == 1 or " changes:\n  " in finished.err
    for words in (*says, "belongs to a different sweep", "--new"):
        assert words in finished.err
    assert {f: f.read_bytes() for f in undisturbed.rglob("*") if f.is_file()} == before


def test_runtime_keys_may_change(undisturbed: Path, tmp_path: Path) -> None:
    compute = {"executor": "in_process", "tokens_per_batch": 300, "examples_per_task": 2}
    spec = write_spec(
        tmp_path / "sweep.yaml", steering=STEERING, compute=compute, output=str(undisturbed)
    )
    finished = steersweep("run", str(spec))
    assert (finished.code, "nothing left to compute" in finished.out) == (0, True), finished


def test_new_starts_beside_what_is_there(undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING)
    assert steersweep("run", str(spec)).code == 0
    changed = ("--new", "--set", "data.limit=2")
    finished = steersweep("run", str(spec), *changed)
    assert finished.code == 0, finished
    assert str(tmp_path / "out-2") in finished.out
    _assert_same_rows(output, undisturbed)
    assert len(read_rows(str(tmp_path / "out-2"), "baseline")) == 2 * 4 * 2


def test_a_second_driver_is_told_who_holds_the_output(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING, compute=SMALL_TASKS)
    first = _start(spec)
    try:
        deadline = time.monotonic() + 180
        while not (tmp_path / "out" / "run.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)
        second = steersweep("run", str(spec))
        assert second.code == 2, second
        assert f"process {first.pid}" in second.err
        assert "since" in second.err
        told = steersweep("status", str(tmp_path / "out"))
        assert f"process {first.pid}" in told.out
    finally:
        first.kill()
        first.wait()
    # The holder is dead: its lock is taken over at once.
    assert steersweep("run", str(spec)).code == 0


def test_a_lost_record_costs_nothing(undisturbed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(undisturbed, copy)
    (copy / "run.json").unlink()
    shutil.rmtree(copy / "manifest")
    before = _write_times(copy)
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING)
    assert steersweep("run", str(spec)).code == 0
    assert _write_times(copy) == before


@pytest.mark.parametrize("change", [{"scoring": "aligned"}, {"data": DATA | {"limit": 2}}])
def test_without_its_record_an_output_is_still_told_from_another_sweep(
    change: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(undisturbed, copy)
    (copy / "run.json").unlink()
    before = {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}
    spec = write_spec(tmp_path / "sweep.yaml", **({"steering": STEERING} | change))
    finished = steersweep("run", str(spec))
    assert finished.code == 2, finished
    assert "belongs to a different sweep" in finished.err
    assert {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()} == before


def test_a_driver_that_was_overtaken_changes_nothing(tmp_path: Path) -> None:
    """Frozen at any moment of a run, for longer than its lease, while another one finishes it."""
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING, compute=SMALL_TASKS)
    first = _start(spec)
    try:
        deadline = time.monotonic() + 180
        while len(part_keys(str(tmp_path / "out"))) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)
        with mock.patch.object(Lease, "acquire", partial(Lease.acquire, ttl_s=0.2)):
            time.sleep(1.0)
            with mock.patch.object(Lease, "await_free"):
                assert steersweep("run", str(spec)).code == 0
        after = {f: f.read_bytes() for f in (tmp_path / "out").rglob("*.parquet")}
        record = (tmp_path / "out" / "run.json").read_bytes()
        first.send_signal(signal.SIGCONT)
        text, _ = first.communicate(timeout=60)
    finally:
        first.kill()
        first.wait()
    assert first.returncode == 2, text
    assert "another driver has" in text
    assert "Traceback" not in text
    assert (tmp_path / "out" / "run.json").read_bytes() == record
    assert {f: f.read_bytes() for f in (tmp_path / "out").rglob("*.parquet")} == after


def test_a_damaged_part_is_named(undisturbed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(undisturbed, copy)
    key = next(k for k in sorted(part_keys(str(copy))) if k.startswith("steered/"))
    (copy / key).write_bytes((copy / key).read_bytes()[:100])
    for command in (
        ("run", str(write_spec(tmp_path / "s.yaml", steering=STEERING))),
        ("report", str(copy)),
        ("status", str(copy)),
    ):
        finished = steersweep(*command)
        assert finished.code == 2, finished
        assert key in finished.err
        assert "delete it" in finished.err
    (copy / key).unlink()
    assert steersweep("run", str(tmp_path / "s.yaml")).code == 0
    _assert_same_rows(copy, undisturbed)


def test_the_record_tells_what_was_run(undisturbed: Path) -> None:
    record = yaml.safe_load((undisturbed / "run.json").read_text())
    assert record["outcome"] == "done"
    assert record["spec"]["vectors"] == {
        "file": None,
        "method": "mean_difference",
        "pooling": "all_positions",
        "read": "resid_post",
        "folds": 1,
    }
    assert record["sessions"][0]["versions"]["torch"]
    assert not (undisturbed / "driver.lock").exists()
