"""What a process of a trial is made to live with: short patience, a wrong clock, a full disk.

Also what it is made to note down.
"""

from __future__ import annotations

import datetime as datetime_module
import errno
import sys
import time
from pathlib import Path
from typing import Any

from cluster.losses import LossBook
from cluster.storage import files, s3
from tests.chaos import stopwatch


def hurry() -> None:
    """Patience in seconds where a night's run has minutes."""
    s3.READ_TIMEOUT_S = 1.0
    s3.PATIENCE_S = 25.0


def shift_clock(offset_s: float) -> None:
    """Set this process's wall clock off, as far as our packages read it."""
    real = time.time
    time.time = lambda: real() + offset_s

    class Shifted(datetime_module.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) + datetime_module.timedelta(seconds=offset_s)

    for name, module in list(sys.modules.items()):
        is_ours = name.startswith(("cluster.", "jobs."))
        if is_ours and getattr(module, "datetime", None) is datetime_module.datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]


def fill_disk_while(flag: str) -> None:
    """Let no file be written while `flag` exists: where no small file system can be mounted."""
    real = files.write_new

    def write_new(path: Path, data: bytes) -> None:
        if data and Path(flag).exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, data)

    files.write_new = write_new


def note_second_attempts(log: str) -> None:
    """Note each task that the driver has an idle replica run a second time."""
    real = LossBook.attempt_began

    def attempt_began(book: LossBook, *, is_second: bool, is_again: bool) -> None:
        if is_second:
            stopwatch.note(log, stopwatch.SECOND_ATTEMPT)
        real(book, is_second=is_second, is_again=is_again)

    LossBook.attempt_began = attempt_began  # type: ignore[method-assign]
