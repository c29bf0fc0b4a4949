"""Progress of a run: the same words on a terminal, below a bar, and as log lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.console import REPLICA_IS_READY, Verbosity, is_shown, messages, say
from jobs.sweeps.steps import Count, Stage, Steps, by_stage
from jobs.words import duration, percent, rate

_LINE_EVERY_S = 30.0


@dataclass(frozen=True)
class StageProgress:
    """How far one stage is.

    Attributes:
        total: items, as far as they are known, those of earlier sessions included.
        per_s: items per second of this session; 0 before the first.
    """

    stage: Stage
    total: int
    done: int
    done_now: int
    per_s: float
    took_s: float

    @property
    def is_over(self) -> bool:
        return self.done >= self.total

    @property
    def left_s(self) -> float | None:
        """Seconds until it is over at this rate; None if it is over or no rate is known."""
        return (
            (self.total - self.done) / self.per_s if self.per_s > 0 and not self.is_over else None
        )


class RunProgress:
    """Shows what is done, with the rate and the time left.

    Stages may overlap: answers are judged while others are still being written. The line is about
    the first stage that is not over; the time left is that of the stage that will take longest.
    Rates count from ``begin`` on, so that loading models is not part of them.

    Args:
        totals: items of each stage that is shown, in order, what earlier sessions did included.
        steps: knows what is done.
    """

    def __init__(self, totals: Mapping[Stage, int], steps: Steps) -> None:
        self._totals, self._steps = totals, steps
        self._started = self._said = time.monotonic()
        self._since: dict[Stage, float] = {}
        self._moved: dict[Stage, tuple[int, float]] = {}
        self._has_begun = self._has_replica = False
        self._activity = ""
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[RunProgress]:
        """Show it for as long as the context lasts."""
        if not (messages().is_terminal and is_shown(Verbosity.NORMAL)):
            yield self
            return
        with Live(console=messages(), get_renderable=self._picture, transient=True) as self._live:
            self._live.refresh()
            try:
                yield self
            finally:
                self._live = None

    def moved(self) -> None:
        """Something is done; on a log, print a line now and then."""
        now = time.monotonic()
        for stage, count in by_stage(self._steps.counts).items():
            if count.known > count.done_before:
                # A stage that begins late is as fast as it has been since then.
                self._since.setdefault(stage, now if self._has_moved_on() else self._started)
            if count.done != self._moved.get(stage, (count.done_before, now))[0]:
                self._moved[stage] = count.done, now
        if self._live is None and now - self._said > _LINE_EVERY_S:
            self._said = now
            say(self.line())

    def begin(self, *, on_replica: bool = True) -> None:
        """Work begins: rates count from now on, not from the loading before.

        Args:
            on_replica: a replica is ready, which a log is told of the first one. Otherwise a thread
                of the driver has begun to work.
        """
        if not self._has_begun:
            self._has_begun = True
            self._activity = ""
            self._started = self._said = time.monotonic()
        if on_replica and not self._has_replica:
            self._has_replica = True
            if self._live is None:
                say(REPLICA_IS_READY)

    def describe(self, text: str) -> None:
        """What happens before the first replica is ready, in a few words."""
        self._activity = text
        if self._live is not None:
            self._live.refresh()  # by its own clock, a short activity would never be drawn

    @property
    def elapsed_s(self) -> float:
        """Seconds since this session's first replica was ready."""
        return time.monotonic() - self._started

    @property
    def items_per_s(self) -> float:
        """Items of the first stage per second, since this session's first replica was ready."""
        stages = self.stages()
        return stages[0].done_now / self.elapsed_s if stages and self.elapsed_s > 0 else 0.0

    def stages(self) -> list[StageProgress]:
        """Every stage that is shown, in order."""
        counts, now = by_stage(self._steps.counts), time.monotonic()
        found = []
        for stage, planned in self._totals.items():
            count = counts.get(stage, Count())
            done_now = count.done - count.done_before
            began = self._since.get(stage, self._started)
            ended = self._moved.get(stage, (0, now))[1] if count.done >= planned else now
            took_s = max(ended - began, 1e-9)
            per_s = done_now / took_s
            total = max(planned, count.known)
            found.append(StageProgress(stage, total, count.done, done_now, per_s, took_s))
        return found

    def line(self, width: int | None = None) -> str:
        """The progress so far: ``scoring 8 of 2,520 rows (0.3 %), 0.25 rows/s, about ... left``.

        Args:
            width: characters that a terminal has. A longer line leaves out the share, which the
                bar above it shows, and then the stages that lag behind.
        """
        main, behind = self._shown_stages()
        share = f" ({percent(main.done, main.total)})"
        lines = [self._line(main, share, behind), self._line(main, "", behind)]
        lines.append(self._line(main, "", []))
        fitting = [line for line in lines if width is None or len(line) <= width]
        return (fitting or lines[-1:])[0]

    def last_lines(self) -> list[str]:
        """What this session did: ``2,520 rows in 20 min (2.1 rows/s)``, a line for each stage."""
        return [
            f"{of.done_now:,} {of.stage.noun} {of.stage.participle}".rstrip()
            + f" in {duration(of.took_s)} ({rate(of.per_s, of.stage.noun)})"
            for of in self.stages()
            if of.done_now
        ]

    def _shown_stages(self) -> tuple[StageProgress, list[StageProgress]]:
        stages = self.stages()
        main = next((of for of in stages if not of.is_over), stages[-1])
        behind = [of for of in stages[stages.index(main) + 1 :] if of.done and not of.is_over]
        return main, behind

    def _line(self, main: StageProgress, share: str, behind: list[StageProgress]) -> str:
        counts = f"{main.done:,} of {main.total:,} {main.stage.noun}{share}"
        if self._activity:
            return f"{self._activity}; {counts} done" if main.done else self._activity
        words = f"{main.stage.verb} {counts}"
        words += "".join(f", {of.done:,} {of.stage.participle}" for of in behind)
        if main.per_s > 0:
            words += f", {rate(main.per_s, main.stage.noun)}"
        times = [of.left_s for of in self.stages() if of.left_s is not None]
        if times and main.per_s > 0:
            words += f", about {duration(max(times))} left"
        return words

    def _has_moved_on(self) -> bool:
        """Whether a stage became known only after another one had begun."""
        return self._has_begun and bool(self._since)

    def _picture(self) -> Table:
        # A grid, as nothing else ends its lines on a console that wraps softly.
        grid = Table.grid()
        width = messages().width - 1
        main, _ = self._shown_stages()
        grid.add_row(ProgressBar(main.total, main.done, width=min(76, width)))
        grid.add_row(Text(self.line(width)))
        return grid
