"""A process that makes calls, one at a time.

It is started afresh instead of forked, since a fork of a process that has threads of torch or Ray
may hang. It does not go through ``multiprocessing``, which would import the caller's main module in
it: a script that calls ``run`` without a ``__main__`` guard would run again. It imports what its
calls need and nothing else.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from jobs.processes.main import Reply


class ProcessEndedError(RuntimeError):
    """A process ended before its call returned: it was killed, or ran out of memory."""


class Process:
    """A process, and the call that it is making."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            # As many processes as cores: more threads would only be in each other's way.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        # A group of its own: a terminal's Ctrl-C comes to the parent, which ends its processes.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from jobs.processes.main import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        self.replies = cast("IO[bytes]", self._process.stdout)
        self.what = ""

    def begin(self, what: str, call: Callable[[], Any]) -> None:
        """Begin a call; the process must have none.

        Args:
            what: the call in words, for messages: ``drawing the figure curves``.
            call: can be pickled, and so can what it returns.
        """
        self.what = what
        requests = cast("IO[bytes]", self._process.stdin)
        try:
            pickle.dump(call, requests)
            requests.flush()
        except BrokenPipeError:
            self._is_gone()

    def result(self) -> Any:
        """Wait for what the call returns.

        Raises:
            Exception: what the call raised, with the traceback of the other process as a note.
            ProcessEndedError: the process is gone.
        """
        try:
            reply: Reply = pickle.load(self.replies)  # noqa: S301 - from a process of ours
        except (EOFError, pickle.UnpicklingError):
            self._is_gone()
        if reply.error is not None:
            reply.error.add_note(f"raised while {self.what}:\n{reply.traceback}")
            raise reply.error
        return reply.value

    def _is_gone(self) -> NoReturn:
        code = self._process.wait()
        raise ProcessEndedError(f"the process that was {self.what} ended with {code}")

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was left to be written to it
                    pipe.close()
        self._process.wait()
