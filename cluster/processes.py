"""Telling whether a process that wrote its id down is still the one that runs."""

import os
import platform
from pathlib import Path

_DEAD_STATES = frozenset({"Z", "X", "x"})


def machine_id() -> str:
    """Return what two processes share exactly when they can see each other's process ids.

    The host name alone will not do: containers share names and not process ids.
    """
    boot = _text("/proc/sys/kernel/random/boot_id")
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return "|".join((platform.node(), boot, namespace))


def process_start(pid: int) -> str | None:
    """Return when the process started, in clock ticks since boot; None where it cannot be told."""
    fields = _stat_fields(pid)
    return fields[19] if fields else None


def is_running(pid: int, start: str | None) -> bool:
    """Return whether the process `pid` that started at `start` runs. A zombie does not.

    Without a start time on either side, any process of that id counts.
    """
    fields = _stat_fields(pid)
    if fields:
        return fields[0] not in _DEAD_STATES and start in (None, fields[19])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs, as another user
    return True


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; the name before may hold spaces."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
