"""Figures drawn by several processes.

The processes are started afresh instead of forked, since a fork of a process that has threads of
torch or Ray may hang. They do not go through ``multiprocessing``, which would import the caller's
main module in each of them: a script that calls ``run`` without a ``__main__`` guard would run
again. They import matplotlib and pandas, but not torch.
"""

from __future__ import annotations

import os
import pickle
import selectors
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn, cast

from jobs.cores import num_cores
from jobs.figures.drawing import Drawing, files_of
from jobs.figures.worker import Reply

_FEWEST_EACH = 4
"""Figures for which a process pays off: it takes as long to start as to draw two."""

Files = Mapping[str, bytes]


def num_processes(num_figures: int) -> int:
    """How many processes draw this many figures; 1: this one alone."""
    return max(1, min(num_cores(), num_figures // _FEWEST_EACH))


@contextmanager
def drawn(drawings: Mapping[str, Drawing], processes: int) -> Iterator[Iterator[tuple[str, Files]]]:
    """The files of each figure, as they are finished; used as a context.

    Each process holds one figure at a time, and this one holds the files of one. Leaving the
    context, by an error or Ctrl-C too, ends the processes at once.

    Raises:
        Exception: what a drawing raised, with the traceback of the other process as a note.
        RuntimeError: a process ended before its figure was finished.
    """
    if processes < 2 or not sys.executable:
        yield ((name, files_of(drawing)) for name, drawing in drawings.items())
        return
    with ExitStack() as stack:
        workers = []
        for _ in range(min(processes, len(drawings))):
            workers.append(_Worker())
            stack.callback(workers[-1].end)
        yield _as_finished(drawings, workers)


class _Worker:
    """A process, and the figure that it is drawing."""

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
            [sys.executable, "-P", "-c", "from jobs.figures.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        self.replies = cast("IO[bytes]", self._process.stdout)
        self.name = ""

    def draw(self, name: str, drawing: Drawing) -> None:
        """Begin with a figure; the worker must have none."""
        self.name = name
        requests = cast("IO[bytes]", self._process.stdin)
        try:
            pickle.dump(drawing, requests)
            requests.flush()
        except BrokenPipeError:
            self._is_gone()

    def files(self) -> Files:
        """Wait for the figure."""
        try:
            reply: Reply = pickle.load(self.replies)  # noqa: S301 - from a process of ours
        except (EOFError, pickle.UnpicklingError):
            self._is_gone()
        if reply.error is not None:
            reply.error.add_note(f"raised while drawing the figure {self.name}:\n{reply.traceback}")
            raise reply.error
        return reply.files

    def _is_gone(self) -> NoReturn:
        code = self._process.wait()
        raise RuntimeError(f"the process that drew the figure {self.name} ended with {code}")

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was left to be written to it
                    pipe.close()
        self._process.wait()


def _as_finished(
    drawings: Mapping[str, Drawing], workers: list[_Worker]
) -> Iterator[tuple[str, Files]]:
    left = iter(drawings.items())
    with selectors.DefaultSelector() as selector:
        for worker, (name, drawing) in zip(workers, left, strict=False):
            worker.draw(name, drawing)
            selector.register(worker.replies, selectors.EVENT_READ, worker)
        while selector.get_map():
            for key, _ in selector.select():
                worker = key.data
                finished = worker.name, worker.files()
                if following := next(left, None):
                    worker.draw(*following)
                else:
                    selector.unregister(worker.replies)
                yield finished
