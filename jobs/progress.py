"""Progress of a run: the same words on a terminal, below a bar, and as log lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.console import REPLICA_IS_READY, Verbosity, is_shown, messages, say
from jobs.words import duration, percent, rate

_LINE_EVERY_S = 30.0


class RunProgress:
    """Counts what is done, and shows it with the rate and the time left.

    Rates count from ``begin`` on, so that loading models is not part of them.

    Args:
        total: everything that is planned, what earlier sessions did included.
        done: what earlier sessions did.
        verb, noun: what happens to what: ``scoring`` and ``rows``.
        unit: of the rate, if it is shorter than the noun.
        participle: of the last line, if the noun alone does not say it: ``written``.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        verb: str = "scoring",
        noun: str = "rows",
        unit: str | None = None,
        participle: str = "",
    ) -> None:
        self._total, self._start_done, self._done = total, done, done
        self._verb, self._noun, self._unit = verb, noun, unit or noun
        self._participle = participle
        self._started = self._said = time.monotonic()
        self._has_begun = False
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

    def advance(self, number: int) -> None:
        """Some more are done."""
        self._done += number
        if self._live is None and time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            say(self.line())

    def begin(self, *, is_first: bool = True) -> None:
        """A replica is ready: rates count from now on, not from the loading before.

        Args:
            is_first: whether it is the first of the run, which a log is told.
        """
        if not self._has_begun:
            self._has_begun = True
            self._activity = ""
            self._started = self._said = time.monotonic()
            if self._live is None and is_first:
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
    def rows_per_s(self) -> float:
        """Rows per second since this session's first replica was ready."""
        elapsed = self.elapsed_s
        return (self._done - self._start_done) / elapsed if elapsed > 0 else 0.0

    def line(self, width: int | None = None) -> str:
        """The progress so far: ``scoring 8 of 2,520 rows (0.3 %), 0.25 rows/s, about ... left``.

        Args:
            width: characters that a terminal has. A longer line leaves out the share, which the
                bar above it shows.
        """
        line = self._line(f" ({percent(self._done, self._total)})")
        return line if width is None or len(line) <= width else self._line("")

    def _line(self, share: str) -> str:
        counts = f"{self._done:,} of {self._total:,} {self._noun}{share}"
        if self._activity:
            return f"{self._activity}; {counts} done" if self._done else self._activity
        words = f"{self._verb} {counts}"
        per_s = self.rows_per_s
        if per_s > 0:
            words += f", {rate(per_s, self._unit)}"
            if self._done < self._total:
                words += f", about {duration((self._total - self._done) / per_s)} left"
        return words

    def last_line(self) -> str:
        """What this session did: ``2,520 rows in 20 min (2.1 rows/s)``."""
        what = f"{self._done - self._start_done:,} {self._noun} {self._participle}".rstrip()
        return f"{what} in {duration(self.elapsed_s)} ({rate(self.rows_per_s, self._unit)})"

    def _picture(self) -> Table:
        # A grid, as nothing else ends its lines on a console that wraps softly.
        grid = Table.grid()
        width = messages().width - 1
        grid.add_row(ProgressBar(self._total, self._done, width=min(76, width)))
        grid.add_row(Text(self.line(width)))
        return grid
