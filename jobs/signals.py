"""SIGINT and SIGTERM: what is committed stays, the rest is dropped, and the exit code says so."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Self

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While open, the first SIGINT or SIGTERM raises KeyboardInterrupt; a second one ends the
    process at once, which leaves no partial file either.

    Whatever the process waits for, a model that loads, a store that does not answer, a replica, is
    interrupted. ``number`` tells which signal came first, None where none has.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.getsignal(number) for number in _NUMBERS}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def install(self) -> None:
        """Take the handlers, again after somebody else took them, as ``ray.init`` does."""
        for number in _NUMBERS:
            signal.signal(number, self._handle)

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + (self.number or signal.SIGINT)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        raise KeyboardInterrupt
