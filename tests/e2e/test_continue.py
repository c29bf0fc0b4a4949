"""A run goes on where it was stopped, grows with its grid, and refuses to become another sweep."""

from __future__ import annotations

import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import yaml

from cluster.lease import Lease
from jobs.resources import local_path
from tests.support.drivers import (
    SMALL_TASKS,
    STEERING,
    assert_same_rows,
    check_a_stopped_driver_is_resumed,
    finished_in_small_tasks,
    num_tasks_done,
    start_run,
    stop_half_way,
    write_times,
)
from tests.support.s3 import Fault, S3Server
from tests.support.sweeps import part_keys, read_rows, steersweep, write_spec


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole small sweep, run once without disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = steersweep("run", str(write_spec(folder / "sweep.yaml", steering=STEERING)))
    assert finished.code == 0, finished
    return folder / "out"


@pytest.fixture(scope="module")
def undisturbed_small_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_in_small_tasks(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)],
)
def test_a_stopped_driver_goes_on_and_computes_nothing_twice(
    number: int, undisturbed_small_tasks: Path, tmp_path: Path
) -> None:
    check_a_stopped_driver_is_resumed("in_process", number, undisturbed_small_tasks, tmp_path)


def test_a_killed_driver_goes_on_with_the_states_that_are_there(tmp_path: Path) -> None:
    """With a method that needs states, a killed run is one that was never disturbed."""
    options: dict[str, Any] = {"vectors": {"method": "whitened"}, "compute": SMALL_TASKS}
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING, **options)
    process = start_run(spec)
    kept = stop_half_way(process, tmp_path / "out", signal.SIGKILL)
    assert any(key.startswith("states/") for key in kept)
    assert len(kept) < 24 * 4, "stopped too late to show anything"

    again = steersweep("run", str(spec))

    assert again.code == 0, again
    assert f"{num_tasks_done(kept)} of them done before" in again.out
    after = write_times(tmp_path / "out")
    assert {key: after[key] for key in kept} == kept
    whole = write_spec(
        tmp_path / "whole.yaml", steering=STEERING, **options, output=str(tmp_path / "whole")
    )
    assert steersweep("run", str(whole)).code == 0
    assert_same_rows(tmp_path / "out", tmp_path / "whole")


def test_ctrl_c_while_the_store_is_away_ends_within_seconds(
    s3_uri: str, s3_faults: S3Server, tmp_path: Path
) -> None:
    """Before anything runs, too: the lock that is given back then is asked for in haste."""

    def go_away(*_: object) -> None:
        away = [Fault(method, status=503, times=10**6) for method in ("GET", "HEAD", "PUT")]
        s3_faults.faults += away
        raise KeyboardInterrupt

    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING, output=s3_uri)
    with mock.patch("jobs.sweeps.runner.write_checked", go_away):
        start = time.monotonic()
        finished = steersweep("run", str(spec))
    assert finished.code == 130, finished
    assert "interrupted" in finished.out
    assert time.monotonic() - start < 30


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
    kept = write_times(output)

    write_spec(spec, **large)
    grown = steersweep("run", str(spec))
    assert grown.code == 0, grown

    after = write_times(output)
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
    assert_same_rows(output, undisturbed)
    assert len(read_rows(str(tmp_path / "out-2"), "baseline")) == 2 * 4 * 2


def test_a_second_driver_is_told_who_holds_the_output(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING, compute=SMALL_TASKS)
    first = start_run(spec)
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
    before = write_times(copy)
    spec = write_spec(tmp_path / "sweep.yaml", steering=STEERING)
    assert steersweep("run", str(spec)).code == 0
    assert write_times(copy) == before


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
    first = start_run(spec)
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
    assert_same_rows(copy, undisturbed)


def test_the_record_tells_what_was_run(undisturbed: Path) -> None:
    record = yaml.safe_load((undisturbed / "run.json").read_text())
    assert record["outcome"] == "done"
    assert record["spec"]["vectors"] == {
        "file": None,
        "method": "mean_difference",
        "pooling": "all_positions",
        "read": "resid_post",
        "folds": 1,
        "held_out": True,
    }
    session = record["sessions"][0]
    assert session["versions"]["torch"]
    (replicas,) = session["replicas"]
    assert replicas.pop("num_replicas") >= 1
    assert replicas == {"device": "cpu", "dtype": "float32", "rows": "packed"}
    assert not (undisturbed / "driver.lock").exists()
