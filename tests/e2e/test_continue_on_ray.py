"""A run on Ray goes on where it was stopped; each of these starts a cluster of its own."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from cluster.parts import read_part
from cluster.storage import StorageSpec
from tests.support.drivers import (
    STEERING,
    check_a_stopped_driver_is_resumed,
    finished_in_small_tasks,
    start_run,
    wait_for_end,
)
from tests.support.sweeps import part_keys, steersweep, write_spec

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def undisturbed_small_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_in_small_tasks(tmp_path_factory.mktemp("small"))


# SIGTERM is as SIGINT there, and a cluster of its own takes half a minute.
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGKILL, marks=pytest.mark.nightly), signal.SIGINT]
)
def test_a_stopped_driver_goes_on_and_computes_nothing_twice(
    number: int, undisturbed_small_tasks: Path, tmp_path: Path
) -> None:
    check_a_stopped_driver_is_resumed("ray", number, undisturbed_small_tasks, tmp_path)


@pytest.mark.parametrize("when", ["starting", pytest.param("running", marks=pytest.mark.nightly)])
def test_a_second_ctrl_c_leaves_at_once_and_nothing_behind(when: str, tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml", steering=STEERING, compute={"executor": "ray", "replicas": 1}
    )
    process = start_run(spec, RAY_ADDRESS="local")
    run = psutil.Process(process.pid)
    deadline = time.monotonic() + 270
    output = tmp_path / "out"
    while not (len(run.children()) > 3 if when == "starting" else part_keys(str(output))):
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    below = run.children(recursive=True)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    wait_for_end(below)
    storage = StorageSpec(str(output)).open()
    for key in part_keys(str(output)):
        read_part(storage, key)
    assert steersweep("run", str(spec), "--set", "compute.executor=in_process").code == 0
