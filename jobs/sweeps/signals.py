"""SIGINT and SIGTERM: what is committed stays, the rest is dropped, and the exit code says so."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType
from typing import Self

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.05


class StopSignals:
    """While open, the first SIGINT or SIGTERM raises KeyboardInterrupt; a second one ends the
    process at once, which leaves no partial file either.

    Whatever the process waits for, a model that loads, a store that does not answer, a replica, is
    interrupted. Python drops a KeyboardInterrupt that is raised in a callback, such as those around
    a fork: it is raised again then. ``number`` tells which signal came first, None where none has.

    After a first signal the process is ending, and closing this leaves it so: a second one still
    ends it with its exit code, until the interpreter itself is taken down.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._is_dropped = False
        self._previous: dict[int, object] = {}
        self._previous_hook = sys.unraisablehook

    def __enter__(self) -> Self:
        self._previous = {number: signal.getsignal(number) for number in _NUMBERS}
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = self._on_unraisable
        # What is imported from here on, as Ray is, registers later and so is ended before.
        atexit.register(_ignore)
        for number in _NUMBERS:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._previous_hook
        if self.number is None:
            atexit.unregister(_ignore)
            for number, handler in self._previous.items():
                signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + (self.number or signal.SIGINT)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
        elif not self._is_dropped:
            os._exit(128 + number)
        self._is_dropped = False
        raise KeyboardInterrupt

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        if self.number is None or not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._previous_hook(unraisable)
            return
        self._is_dropped = True
        # Not from here, where it would be dropped as well.
        again = (threading.get_ident(), self.number)
        threading.Timer(_AGAIN_S, signal.pthread_kill, again).start()


def _ignore() -> None:
    """Python gives up its handlers before it ends, and a signal would then be the exit code."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
