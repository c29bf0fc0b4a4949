"""A process that draws figures, started by ``pool.py``.

It reads drawings from standard input and writes files to standard output, as pickles, until its
input ends. Its parent holds the only other end of that pipe, so it also ends when the parent is
killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from jobs.figures.drawing import Drawing, files_of


@dataclass(frozen=True)
class Reply:
    """What came of a drawing: its files, or the error that it raised and where."""

    files: Mapping[str, bytes]
    error: BaseException | None = None
    traceback: str = ""


def reply_to(drawing: Drawing) -> Reply:
    """Draw a figure; an error is part of the reply."""
    try:
        return Reply(files_of(drawing))
    except Exception as error:
        where = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - made here a moment ago
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Reply({}, error, where)


def main() -> None:
    """Draw what standard input asks for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end without a traceback
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    requests: BinaryIO = sys.stdin.buffer
    while True:
        try:
            drawing: Drawing = pickle.load(requests)  # noqa: S301 - from the parent's pipe
        except EOFError:
            return
        try:
            pickle.dump(reply_to(drawing), replies)
            replies.flush()
        except BrokenPipeError:  # the parent is gone
            os._exit(1)
