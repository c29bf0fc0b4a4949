"""Wall time, processor time and resident memory of this process."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

MB = 1e6


@dataclass
class Gauge:
    """What a stretch of work took; filled when it ends.

    Attributes:
        cpu_s: of all threads of this process, however busy the machine was.
        rss_before_bytes: resident before it; ``rss_bytes``: at its end.
        peak_rss_bytes: the most that was ever resident during it.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_before_bytes: int = 0
    rss_bytes: int = 0
    peak_rss_bytes: int = 0


@contextmanager
def gauged() -> Iterator[Gauge]:
    """Measure what is done inside."""
    gauge = Gauge(rss_before_bytes=_status("VmRSS"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is resident now
    wall, cpu = time.monotonic(), time.process_time()
    yield gauge
    gauge.wall_s, gauge.cpu_s = time.monotonic() - wall, time.process_time() - cpu
    gauge.rss_bytes, gauge.peak_rss_bytes = _status("VmRSS"), peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Most bytes that were resident since the process, or the last gauge, began."""
    return _status("VmHWM")


def machine() -> dict[str, str]:
    """Where and when."""
    return {
        "machine": f"{os.cpu_count()}-core {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
