"""SIGINT and SIGTERM: what is committed stays, the rest is dropped, and the exit code says so."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Self


class StopSignals:
    """While open, the first SIGINT or SIGTERM sets ``number``; a second one ends the process.

    Install it after ``ray.init``, which replaces the handler of SIGTERM.

    Args:
        interrupts: also raise KeyboardInterrupt at once, for work in this process.
    """

    def __init__(self, *, interrupts: bool) -> None:
        self.number: int | None = None
        self._interrupts = interrupts
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + (self.number or signal.SIGINT)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        if self._interrupts:
            raise KeyboardInterrupt
