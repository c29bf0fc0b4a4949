"""What a user sees: progress, tables, messages. The one module that prints."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from cluster.redaction import redact

REPLICA_IS_READY = "the first replica is ready"
"""What a driver says once, where it has no bar to show; `steersweep submit` waits for it."""

_LINE_EVERY_S = 30.0
_UNIT = re.compile(r"(%| [kMGTPE]?B?)$")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line for the user on standard output."""
    out.print(redact(message), markup=False)


def quote(line: str) -> None:
    """A line that another process has said."""
    out.print(Text(f"  {_printable(redact(line))}", style="dim"))


def complain(message: str, *details: str) -> None:
    """What is wrong and what to do, on standard error: one line, and one for each detail.

    Details keep their spaces: a caret below a quoted line must stay where it points.
    """
    err.print(Text.assemble(("error: ", "bold red"), _line(message)))
    for detail in details:
        err.print(Text(_printable(redact(detail))))


def warn(message: str) -> None:
    """One line on standard error about something that went on anyway."""
    err.print(Text.assemble(("warning: ", "yellow"), _line(message)))


def show_bug(error: BaseException) -> None:
    """The traceback of an error that nobody expected, on standard error."""
    err.print(Text(redact("".join(traceback.format_exception(error)).rstrip())))


def clear() -> None:
    """Start at the top of the terminal again; nothing where the output is none."""
    out.clear()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose columns are left-aligned text or right-aligned numbers."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, name in enumerate(columns):
        is_number = all(_is_number(row[index]) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(redact(cell)) for cell in row))
    # A table wider than the terminal would be cut; a pipe or a log takes any width.
    Console(highlight=False, width=None if out.is_terminal else 200).print(table)


def duration(seconds: float) -> str:
    """A time in words: 2 h 05 min, 7 min 30 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {int(seconds % 60):02} s"


def _line(message: str) -> str:
    """The message as one line without secrets, and without codes that a terminal would obey."""
    return _printable(redact(" ".join(message.split())))


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _is_number(text: str) -> bool:
    try:
        float(_UNIT.sub("", text).replace(",", ""))
    except ValueError:
        return text in ("", "-")
    return True


class _Rate(ProgressColumn):
    """Rows per second since the start of this session."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s", style="cyan")


class RunProgress:
    """Rows done: a bar with rate and time left on a terminal, a line every 30 s elsewhere."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._start_done, self._done = total, done, done
        self._started = self._said = time.monotonic()
        self._has_begun = False
        self._bar: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[RunProgress]:
        """Show it for as long as the context lasts."""
        if not out.is_terminal:
            yield self
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cell rows"),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=out,
        )
        with self._bar:
            self._bar.add_task("starting", total=self._total, completed=self._done)
            yield self

    def advance(self, num_rows: int) -> None:
        """Some rows are done."""
        self._done += num_rows
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], num_rows)
        elif time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            say(self._line())

    def begin(self) -> None:
        """The first replica is ready: rates count from now on, not from the loading before."""
        if not self._has_begun:
            self._has_begun = True
            self._started = self._said = time.monotonic()
            self.describe("scoring")
            if self._bar is None:
                say(REPLICA_IS_READY)

    def describe(self, text: str) -> None:
        """What is going on now, in a few words."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=text)

    @property
    def elapsed_s(self) -> float:
        """Seconds since this session's first replica was ready."""
        return time.monotonic() - self._started

    @property
    def rows_per_s(self) -> float:
        """Rows per second since this session's first replica was ready."""
        elapsed = self.elapsed_s
        return (self._done - self._start_done) / elapsed if elapsed > 0 else 0.0

    def _line(self) -> str:
        rate = self.rows_per_s
        left = (self._total - self._done) / rate if rate > 0 else float("inf")
        share = 100 * self._done / max(1, self._total)
        return (
            f"{self._done:,}/{self._total:,} cell rows ({share:.0f} %), {rate:,.0f} rows/s, "
            f"{left:,.0f} s left"
        )
