"""What the workers of a trial did and when, appended to one file by every process."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SECOND_ATTEMPT = "second"
"What a driver notes; all else is noted by replicas."


def note(log: str, what: str, task_id: str = "-") -> None:
    """Append a line; one write of a short line is atomic. Time is the machine's monotonic one."""
    line = f"{time.monotonic():.4f} {what} {os.getpid()} {task_id}\n"
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Entry:
    """`what` is load, start or end of a replica, or `SECOND_ATTEMPT` of a driver."""

    time: float
    what: str
    pid: int
    task_id: str


def read(log: Path) -> list[Entry]:
    """Every entry so far, in order."""
    if not log.exists():
        return []
    lines = [line.split() for line in log.read_text().splitlines()]
    return [Entry(float(t), what, int(pid), task) for t, what, pid, task in lines]


def num_done_again(entries: list[Entry]) -> int:
    """Starts of a task beyond its first."""
    starts = Counter(e.task_id for e in entries if e.what == "start")
    return sum(starts.values()) - len(starts)


def num_second_attempts(entries: list[Entry]) -> int:
    """Tasks that were given to a second replica while the first was at them."""
    return sum(e.what == SECOND_ATTEMPT for e in entries)


def pids(entries: list[Entry]) -> list[int]:
    """Replicas by process id, latest first."""
    of_replicas = (e.pid for e in reversed(entries) if e.what != SECOND_ATTEMPT)
    return list(dict.fromkeys(of_replicas))


def replaced_after(entries: list[Entry], fault: float) -> float | None:
    """Seconds from a fault to the next replica that begins to load its model."""
    return next((e.time - fault for e in entries if e.what == "load" and e.time > fault), None)


def recovered_after(entries: list[Entry], fault: float) -> float | None:
    """Seconds from a fault to the end of the first task that was started after it."""
    started: dict[tuple[int, str], float] = {}
    for entry in entries:
        if entry.what == "start":
            started[entry.pid, entry.task_id] = entry.time
        elif entry.what == "end" and started.get((entry.pid, entry.task_id), 0.0) > fault:
            return entry.time - fault
    return None
