"""The CPU cores that this process may use."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Cores of this machine, without those that the process is kept off."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
