"""`steersweep status`: of a run that is under way, interrupted, finished."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

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
    assert "rows per second" in under_way.out
    assert "left" in under_way.out
    assert driver.returncode == 0
    assert watched.code == 0, watched
    _, first, *_, last = watched.out.split(f"{output}: ")
    assert f"process {driver.pid}" in first
    assert last.startswith("done, ended ")
    assert "120 of 120 cell rows, 100%" in last


def test_a_finished_run_shows_its_groups_and_its_certificate(tmp_path: Path) -> None:
    spec = write_spec(
        tmp_path / "sweep.yaml",
        data={"path": "embedded:examples.json", "bias_types": ["gender", "race"], "limit": 1},
    )
    assert steersweep("run", str(spec)).code == 0
    shown = steersweep("status", str(tmp_path / "out"))
    assert shown.code == 0
    assert "in the last session" in shown.out
    assert "tiny/intersentence/race" in shown.out
    assert "certificate: holds" in shown.out
