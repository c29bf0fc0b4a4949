"""Drivers in processes of their own that are stopped half-way, and what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from tests.support.sweeps import part_keys, read_rows, steersweep, write_spec

STEERING: dict[str, Any] = {"layers": [1, 4], "coeffs": [-3, 400]}
SMALL_TASKS: dict[str, Any] = {"executor": "in_process", "examples_per_task": 1}


def start_run(spec: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "run", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def stop_half_way(process: subprocess.Popen[str], output: Path, number: int) -> dict[str, int]:
    """Send a signal once a few parts are there; the parts that are left then, by write time.

    A replica commits what it has ready until it sees that its driver is gone.
    """
    deadline = time.monotonic() + 270
    while len(part_keys(str(output))) < 6:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait(60)
    wait_for_end(below)
    return write_times(output)


def wait_for_end(below: list[psutil.Process]) -> None:
    """But for Ray's own agents, which notice after a minute that their node is gone."""
    ours = []
    for each in below:
        with suppress(psutil.NoSuchProcess):
            if not each.name().endswith("Agent"):
                ours.append(each)
    _, alive = psutil.wait_procs(ours, timeout=60)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], alive


def write_times(output: Path) -> dict[str, int]:
    return {key: (output / key).stat().st_mtime_ns for key in part_keys(str(output))}


def assert_same_rows(output: Path, other: Path) -> None:
    for table in ("baseline", "steered"):
        pd.testing.assert_frame_equal(
            read_rows(str(output), table), read_rows(str(other), table), check_exact=True
        )


def num_tasks_done(kept: dict[str, int]) -> int:
    """A task is done with its last part: sums and states alone are not enough."""
    return sum(not key.startswith(("sums/", "states/")) for key in kept)


def finished_in_small_tasks(folder: Path) -> Path:
    """The output of a sweep in many small tasks, so that there is time to stop between them."""
    spec = write_spec(folder / "sweep.yaml", steering=STEERING, compute=SMALL_TASKS)
    assert steersweep("run", str(spec)).code == 0
    return folder / "out"


def check_a_stopped_driver_is_resumed(
    executor: str, number: int, undisturbed: Path, folder: Path
) -> None:
    """Stop a run of those small tasks by that signal: run again, it computes nothing twice."""
    compute = SMALL_TASKS | {"executor": executor, "replicas": 2}
    spec = write_spec(folder / "sweep.yaml", steering=STEERING, compute=compute)
    output = folder / "out"

    process = start_run(spec, RAY_ADDRESS="local")
    kept = stop_half_way(process, output, number)
    text = process.stdout.read() if process.stdout else ""

    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), text
    assert len(kept) < 24 * 3, "stopped too late to show anything"
    if number != signal.SIGKILL:
        assert "the same command resumes it" in text
        assert "Traceback" not in text
    again = steersweep("run", str(spec), "--set", "compute.executor=in_process")
    assert again.code == 0, again
    assert f"{num_tasks_done(kept)} of them done before" in again.out
    after = write_times(output)
    assert {key: after[key] for key in kept} == kept
    assert_same_rows(output, undisturbed)
