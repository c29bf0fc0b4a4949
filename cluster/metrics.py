"""What a run tells of itself while it goes on: numbers for a monitor, a line for the log."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Protocol

from cluster.outcome import Progress
from cluster.tasks import Event, Receipt, Task

logger = logging.getLogger(__name__)

BEAT_S = 60.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Metrics(Protocol):
    """Takes the numbers of a run to where a monitor reads them."""

    def saw(self, event: Event) -> None:
        """Something has happened."""

    def finished(self, task: Task, receipt: Receipt) -> None:
        """A task is done, for the first time."""

    def report(self, progress: Progress, rows_per_s: float, memory_bytes: int) -> None:
        """Counts of now, every few seconds."""


class Heartbeat:
    """A line every minute: how far, how fast, with what, how long still, how large."""

    def __init__(self, now: float, *, every_s: float = BEAT_S) -> None:
        self._every_s = every_s
        self._beat_at = now
        self._begun: tuple[float, Progress] | None = None
        "When the first replica was ready, and what was done by then."
        self.rows_per_s = 0.0

    def look(self, progress: Progress, now: float) -> None:
        """Take in counts; rates are since the first replica was ready."""
        if self._begun is None:
            if not (progress.num_ready_replicas or progress.num_done):
                return
            self._begun = now, progress
        begun, before = self._begun
        num_rows = progress.num_rows - before.num_rows
        self.rows_per_s = num_rows / (now - begun) if now > begun else 0.0

    def is_due(self, now: float) -> bool:
        """Whether a line's time has come; says yes once."""
        if now < self._beat_at + self._every_s:
            return False
        self._beat_at = now
        return True

    def line(self, progress: Progress, now: float) -> str:
        """The line."""
        left = self._left_s(progress, now)
        parts = [
            f"{progress.num_done}/{progress.num_tasks} tasks done",
            f"{self.rows_per_s:,.0f} rows/s",
            f"{progress.num_in_flight} in flight",
            f"{progress.num_ready_replicas} replicas ready",
            f"{progress.num_failures} failures",
            f"{progress.num_set_aside} set aside",
            "time left unknown" if left is None else f"about {left:,.0f} s left",
            f"driver {memory_bytes() / 2**20:,.0f} MB",
        ]
        return ", ".join(parts)

    def _left_s(self, progress: Progress, now: float) -> float | None:
        """By cost, of the tasks known so far."""
        if self._begun is None:
            return None
        begun, before = self._begun
        done = progress.done_cost - before.done_cost
        return progress.left_cost * (now - begun) / done if done > 0 else None


def memory_bytes() -> int:
    """Resident memory of this process; 0 where it cannot be told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
