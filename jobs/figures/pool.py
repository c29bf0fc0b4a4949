"""Figures drawn by several processes, which import matplotlib and pandas, but not torch."""

from __future__ import annotations

import selectors
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from jobs.cores import num_cores
from jobs.figures.drawing import Drawing, files_of
from jobs.processes.process import Process

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
        ProcessEndedError: a process ended before its figure was finished.
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


class _Worker(Process):
    """A process, and the figure that it is drawing."""

    name = ""

    def draw(self, name: str, drawing: Drawing) -> None:
        """Begin with a figure; the worker must have none."""
        self.name = name
        self.begin(f"drawing the figure {name}", partial(files_of, drawing))


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
                finished = worker.name, worker.result()
                if following := next(left, None):
                    worker.draw(*following)
                else:
                    selector.unregister(worker.replies)
                yield finished
