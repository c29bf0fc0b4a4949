"""A process that makes calls, started by ``process.py``.

It reads calls from standard input and writes what they return to standard output, as pickles, until
its input ends. Its parent holds the only other end of that pipe, so it also ends when the parent is
killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Reply:
    """What came of a call: what it returned, or the error that it raised and where."""

    value: Any
    error: BaseException | None = None
    traceback: str = ""


def reply_to(call: Callable[[], Any]) -> Reply:
    """Make a call; an error is part of the reply."""
    try:
        return Reply(call())
    except Exception as error:
        where = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - made here a moment ago
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Reply(None, error, where)


def main() -> None:
    """Make the calls that come on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end without a traceback
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    requests: BinaryIO = sys.stdin.buffer
    while True:
        try:
            call: Callable[[], Any] = pickle.load(requests)  # noqa: S301 - from the parent's pipe
        except EOFError:
            return
        try:
            pickle.dump(reply_to(call), replies)
            replies.flush()
        except BrokenPipeError:  # the parent is gone
            os._exit(1)
