"""One stage of a persona sweep and its progress, counted in answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cluster.tasks import Task
from jobs.console import say
from jobs.progress import RunProgress


class Stage:
    """What happens to which answers: ``writing 120 of 480 contrast answers (25.0 %), ...``.

    Args:
        verb, noun, participle: ``writing``, ``contrast answers``, ``written``.
    """

    def __init__(self, verb: str, noun: str, participle: str) -> None:
        self._verb, self._noun, self._participle = verb, noun, participle
        self._sizes: Mapping[str, int] = {}
        self.progress = self._counted(0, 0)

    def __str__(self) -> str:
        """What a list of failed tasks calls it."""
        return f"{self._verb} {self._noun}"

    def plan(self, total: int, sizes: Mapping[str, int]) -> None:
        """Say how much there is.

        Args:
            total: answers, those of earlier sessions included.
            sizes: answers of each task that is not done, by its id.
        """
        self._sizes = sizes
        self.progress = self._counted(total, total - sum(sizes.values()))

    @contextmanager
    def shown(self, *, waits: bool = False) -> Iterator[None]:
        """Show the progress, and what was done at the end.

        Args:
            waits: models are still to be loaded; ``progress.begin`` is called once they are.
        """
        if waits:
            self.progress.describe("loading models")
        else:
            self.progress.begin(is_first=False)
        with self.progress.shown():
            yield
        say(self.progress.last_line())

    def finished(self, task: Task) -> None:
        """A task is done."""
        self.progress.advance(self._sizes[task.id])

    def _counted(self, total: int, done: int) -> RunProgress:
        return RunProgress(
            total,
            done,
            verb=self._verb,
            noun=self._noun,
            participle=self._participle,
            unit="answers",
        )
