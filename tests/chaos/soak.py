"""A night in small: one driver, a fault every few seconds, and what grows meanwhile.

python -m tests.chaos.soak --minutes 20 --seed 1 [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from cluster.parts import read_part
from cluster.storage import StorageSpec
from tests.chaos import stopwatch
from tests.chaos.drivers import Settings
from tests.chaos.machines import RayMachines, World, is_running, wait_for_end, world
from tests.chaos.sessions import start_driver

SAMPLE_S = 2.0
FAULT_EVERY_S = (2.0, 6.0)
S3_SHARE = 0.03
SHARDS_PER_MINUTE = 250  # twice as many tasks as two replicas can do
MB = 2**20


@dataclass
class Samples:
    """One row every two seconds."""

    times: list[float] = field(default_factory=list)
    columns: dict[str, list[float]] = field(default_factory=dict)

    def add(self, now: float, **values: float) -> None:
        self.times.append(now)
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

    def described(self, name: str) -> dict[str, float]:
        """First, last and largest value, and the slope per hour once it has warmed up."""
        values = np.asarray(self.columns[name])
        times = np.asarray(self.times)
        warm = times > times[0] + 0.2 * (times[-1] - times[0])
        slope = float(np.polyfit(times[warm], values[warm], 1)[0]) * 3600
        found = {"first": values[0], "last": values[-1], "most": values.max(), "per_hour": slope}
        return {key: round(float(value), 1) for key, value in found.items()}


class Soak:
    """A run that goes on until it is told to stop."""

    def __init__(self, shared: World, machines: RayMachines, minutes: float, seed: int) -> None:
        self._world, self._machines = shared, machines
        self._seconds = minutes * 60
        self._rng = random.Random(seed)
        self._log = shared.folder / "stopwatch"
        self._uri = shared.fresh_output("s3")
        self.samples = Samples()
        self.faults: Counter[str] = Counter()
        self._settings = Settings(
            address=machines.address,
            uri=self._uri,
            endpoint_url=None,
            log=str(self._log),
            output=str(shared.folder / "driver.out"),
            full_flag=str(shared.disk.flag),
            num_slots=machines.num_slots,
            num_shards=max(8, int(minutes * SHARDS_PER_MINUTE)),
        )

    def run(self) -> dict[str, Any]:
        """Break it until the time is over; what has grown, and what is left behind."""
        mix = self._world.proxy.mix
        mix.rng.seed(self._rng.random())
        mix.share = S3_SHARE
        driver = start_driver(self._settings)
        begun = time.monotonic()
        try:
            self._go_on(driver, begun)
            assert driver.pid is not None
            os.kill(driver.pid, signal.SIGINT)
            asked = time.monotonic()
            wait_for_end(driver.pid, 60.0)
            stopped_s = time.monotonic() - asked
        finally:
            mix.share = mix.down_until = 0
            driver.kill()
            driver.join(10)
        pids = stopwatch.pids(stopwatch.read(self._log))
        left = [pid for pid in pids if not wait_for_end(pid, 20.0)]
        rows = self._check_rows()
        return {
            "minutes": round(self._seconds / 60, 1),
            "tasks_done": rows,
            "replicas_started": len(pids),
            "faults": dict(self.faults),
            "s3_requests_broken": sum(mix.done.values()),
            "exit_code": driver.exitcode,
            "seconds_to_stop": round(stopped_s, 1),
            "replicas_left": len(left),
            **{name: self.samples.described(name) for name in self.samples.columns},
        }

    def _go_on(self, driver: BaseProcess, begun: float) -> None:
        next_fault = begun + 15.0
        next_sample = begun + 10.0
        while time.monotonic() < begun + self._seconds:
            assert driver.is_alive(), Path(self._settings.output).read_text()[-2000:]
            now = time.monotonic()
            if now >= next_fault:
                self._do_fault()
                next_fault = now + self._rng.uniform(*FAULT_EVERY_S)
            if now >= next_sample:
                self._sample(driver)
                next_sample = now + SAMPLE_S
            time.sleep(0.1)

    def _do_fault(self) -> None:
        replicas = self._replicas()
        if len(replicas) > 1 and self._rng.random() < 0.7:
            # The oldest is spared: its memory is what is looked at.
            os.kill(replicas[-1], signal.SIGKILL)
            self.faults["kill replica"] += 1
        else:
            seconds = self._rng.uniform(0.5, 2.0)
            self._world.proxy.mix.down_until = time.monotonic() + seconds
            self.faults["s3 down"] += 1

    def _replicas(self) -> list[int]:
        """Process ids of the replicas that live, oldest first."""
        loads = [e.pid for e in stopwatch.read(self._log) if e.what == "load"]
        return [pid for pid in loads if is_running(pid)]

    def _sample(self, driver: BaseProcess) -> None:
        replicas = self._replicas()
        if not replicas:
            return
        process, oldest = psutil.Process(driver.pid), psutil.Process(replicas[0])
        raylet = psutil.Process(min(self._machines.raylets()))
        self.samples.add(
            time.monotonic(),
            driver_rss_mb=process.memory_info().rss / MB,
            driver_fds=process.num_fds(),
            replica_rss_mb=oldest.memory_info().rss / MB,
            replica_fds=oldest.num_fds(),
            raylet_rss_mb=raylet.memory_info().rss / MB,
            raylet_fds=raylet.num_fds(),
            shared_memory_mb=shared_memory_bytes() / MB,
            ray_folder_mb=folder_bytes(self._world.folder / "ray") / MB,
        )

    def _check_rows(self) -> int:
        """Number of parts whose rows are whole; raises for any other."""
        storage = StorageSpec(self._uri, self._world.s3_endpoint).open()
        keys = [e.key for table in ("rows", "steered") for e in storage.list(f"{table}/")]
        for key in keys:
            read_part(storage, key, Path(key).stem)
        return len(keys)


def shared_memory_bytes() -> int:
    """Bytes in this machine's shared memory folder."""
    return folder_bytes(Path("/dev/shm"))


def folder_bytes(folder: Path) -> int:
    """Bytes that the files below a folder take on the disk."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).lstat().st_blocks * 512
            except OSError:
                continue  # gone since
    return total


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    before = shared_memory_bytes()
    with world() as shared:
        found = Soak(shared, shared.machines("one node"), options.minutes, options.seed).run()
    found["shared_memory_left_mb"] = round((shared_memory_bytes() - before) / MB, 1)
    text = json.dumps({"seed": options.seed, **found}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)
    return 0 if found["exit_code"] == 130 and not found["replicas_left"] else 1


if __name__ == "__main__":
    sys.exit(main())
