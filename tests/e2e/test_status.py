"""`steersweep status`: of a run that is under way, interrupted, finished."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.lease import LEASE_S, LeaseContent
from cluster.storage import StorageSpec
from jobs.sweeps.session import DriverState
from tests.support.stored_outputs import copy_stored_output
from tests.support.sweeps import steersweep, write_spec


def test_a_run_under_way_is_shown_with_its_rate_until_it_ends(tmp_path: Path) -> None:
    spec = write_spec(tmp_path / "sweep.yaml", compute={"executor": "in_process"})
    output = tmp_path / "out"
    options = ["--set", "compute.examples_per_task=1"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "run", str(spec), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        began = time.monotonic()
        while not any(output.glob("baseline/**/*.parquet")):
            assert driver.poll() is None, "ended before it had begun"
            assert time.monotonic() < began + 120
            time.sleep(0.1)
        under_way = steersweep("status", str(output))
        watched = steersweep("status", str(output), "--watch", "--every", "1")
    finally:
        driver.wait(timeout=300)
    assert under_way.code == 0, under_way
    assert f"process {driver.pid}" in under_way.out
    assert re.search(r" of 216 rows \([\d.]+ %\), [\d.,]+ rows/s, about .* left\n", under_way.out)
    assert driver.returncode == 0
    assert watched.code == 0, watched
    _, first, *_, last = watched.out.split(f"{output}: ")
    assert f"process {driver.pid}" in first
    assert last.startswith("finished on ")
    assert "216 of 216 rows (100 %), " in last


def test_a_finished_run_shows_its_groups_and_its_certificate(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["gender", "race"], "limit": 1},
    )
    assert steersweep("run", str(spec)).code == 0
    shown = steersweep("status", str(tmp_path / "out"))
    assert shown.code == 0
    assert "in the last session" in shown.out
    assert "certificate: holds" in shown.out
    groups = r"^tiny +intersentence +race +5 of 5 +100 % +2 of 2$"
    assert not re.search(groups, shown.out, re.MULTILINE)
    verbose = steersweep("status", str(tmp_path / "out"), "--verbose").out
    assert re.search(groups, verbose, re.MULTILINE)


def test_an_unfinished_run_shows_its_groups_and_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_stored_output("stereoset-stopped", tmp_path)
    shown = steersweep("status", "stereoset-stopped")
    assert "interrupted on 2026-" in shown.out
    assert "run the same command again to resume" in shown.out
    assert re.search(r"^tiny +intersentence +race ", shown.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("outcome", "state", "words"),
    [
        ("done", "done", "finished on 2026-11-30 at 11:57 UTC"),
        ("running", "not running", "not running (the last run exited unexpectedly)"),
        ("stopped", "stopped", "stopped on 2026-11-30 at 11:57 UTC: no space; run the same"),
        ("failed tasks", "failed tasks", "with failed tasks; run the same command again to retry"),
        ("of a later version", "not running", "not running"),
    ],
)
def test_how_a_run_ended_is_told(outcome: str, state: str, words: str, tmp_path: Path) -> None:
    record = {
        "outcome": outcome,
        "ended": "2026-11-30T11:57:36+00:00",
        "sessions": [{"reason": "no space"} if outcome == "stopped" else {}],
    }
    driver = DriverState.of(StorageSpec(str(tmp_path)).open(), record)
    assert words in driver.told
    assert (driver.state, driver.is_running) == (state, False)


def test_a_driver_that_is_silent_is_not_running(tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    lock.write_bytes(LeaseContent.of_this_process().to_bytes())
    storage = StorageSpec(str(tmp_path)).open()
    assert DriverState.of(storage, {}).is_running
    long_ago = time.time() - 2 * LEASE_S
    os.utime(lock, (long_ago, long_ago))
    driver = DriverState.of(storage, {})
    assert (driver.state, driver.is_running, driver.pid) == ("not responding", False, os.getpid())
    assert f"process {os.getpid()}" in driver.told
