"""What a user sees: messages, tables and errors. With ``jobs/progress.py`` the only printing code.

On a terminal, lines are wrapped between words at its width, but a word is never broken: a path or a
link stays in one piece, so that it can be clicked and copied. A pipe or a log gets each message as
one line. Tables are never cut: one that is wider than the terminal is printed as a list.
"""

from __future__ import annotations

import enum
import json
import math
import re
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cluster.redaction import redact

REPLICA_IS_READY = "the first replica is ready"
"""What a driver without a terminal says once; `steersweep submit` waits for it."""

_UNIT = re.compile(r"( ?%| [kMGTPE]?B?| s)$")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Verbosity(enum.IntEnum):
    """How much a command prints; warnings and errors are always printed."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


@dataclass
class _Settings:
    verbosity: Verbosity = Verbosity.NORMAL
    is_json: bool = False


_settings = _Settings()


def configure(*, verbose: bool = False, quiet: bool = False, as_json: bool = False) -> None:
    """Decide how much the command prints, and whether standard output is kept for one JSON object.

    Args:
        as_json: every message goes to standard error, and only ``print_json`` to standard output.
    """
    level = Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    _settings.verbosity = Verbosity.QUIET if quiet else level
    _settings.is_json = as_json


def messages() -> Console:
    """The console that messages and progress go to."""
    return err if _settings.is_json else out


def is_shown(at: Verbosity) -> bool:
    """Whether something of this level is printed."""
    return _settings.verbosity >= at


def say(message: str = "", *, at: Verbosity = Verbosity.NORMAL) -> None:
    """Print a message; with ``--quiet`` only if its level says so."""
    if is_shown(at):
        console = messages()
        console.print(_wrapped(redact(message), console), markup=False)


def detail(message: str) -> None:
    """Print a message with ``--verbose`` only."""
    say(message, at=Verbosity.VERBOSE)


def quote(line: str) -> None:
    """Print a line that another process has said."""
    out.print(Text(_wrapped(f"  {_printable(redact(line))}", out), style="dim"))


def complain(message: str, *details: str) -> None:
    """Print what is wrong and what to do on standard error: one line, and one for each detail.

    Args:
        details: several mistakes at once, or a place in a file; spaces at their start are kept.
    """
    _print_labelled("error", "bold red", message)
    for line in details:
        err.print(Text(_wrapped(_printable(redact(line)), err)))


def warn(message: str) -> None:
    """Print one warning about something that did not stop the command, on standard error."""
    _print_labelled("warning", "yellow", message)


def show_bug(error: BaseException) -> None:
    """Print the traceback of an unexpected error on standard error."""
    err.print(Text(redact("".join(traceback.format_exception(error)).rstrip())))


def clear() -> None:
    """Clear the terminal; nothing if the output is none."""
    out.clear()


def print_raw(text: str) -> None:
    """Print text for a machine on standard output: no wrapping, no colors."""
    sys.stdout.write(f"{redact(text)}\n")
    sys.stdout.flush()


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output; a number that is not finite becomes null."""
    print_raw(json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False))


def link(uri: str) -> str:
    """A ``file://`` link to a local path, which a terminal makes clickable; other URIs as they are.

    Args:
        uri: as ``Storage.uri_of`` gives it.
    """
    return uri if "://" in uri else Path(uri).expanduser().absolute().as_uri()


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    at: Verbosity = Verbosity.NORMAL,
) -> None:
    """Print a table; text columns are left-aligned, columns of numbers right-aligned."""
    print_tables(columns, [(title, rows)], at=at)


def print_tables(
    columns: Sequence[str],
    groups: Sequence[tuple[str, Sequence[Sequence[str]]]],
    *,
    at: Verbosity = Verbosity.NORMAL,
) -> None:
    """Print several tables with the same columns and widths, each below its title."""
    if not is_shown(at):
        return
    groups = [(title, [[redact(cell) for cell in row] for row in rows]) for title, rows in groups]
    every = [row for _, rows in groups for row in rows]
    is_number = [all(_is_number(row[n]) for row in every) for n in range(len(columns))]
    widths = [max(map(_width, (name, *(r[n] for r in every)))) for n, name in enumerate(columns)]
    console = messages()
    for title, rows in groups:
        if title:
            say(title, at=at)
        table = Table(box=_LINE_BELOW_HEADER, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for name, has_numbers, width in zip(columns, is_number, widths, strict=True):
            table.add_column(
                name, justify="right" if has_numbers else "left", no_wrap=True, min_width=width
            )
        for row in rows:
            table.add_row(*map(Text, row))
        wide = console.options.update(width=10_000)
        width = Measurement.get(console, wide, table).maximum
        if console.is_terminal and width > console.width:
            _print_as_list(columns, rows, console)
        else:
            Console(highlight=False, width=width, stderr=console is err).print(table)


def _print_as_list(columns: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """A row below the other, a line for each column."""
    pad = max(map(_width, columns))
    for number, row in enumerate(rows):
        if number:
            console.print()
        for name, cell in zip(columns, row, strict=True):
            line = f"  {name:<{pad}}  {cell}"
            console.print(_wrapped(line, console, indent=pad + 4), markup=False)


_LINE_BELOW_HEADER = box.Box("    \n    \n ─  \n    \n    \n    \n    \n    \n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _width(text: str) -> int:
    return max(map(len, text.split("\n")))


def _print_labelled(label: str, style: str, message: str) -> None:
    line = _wrapped(f"{label}: {_line(message)}", err)
    err.print(Text.assemble((f"{label}:", style), line.removeprefix(f"{label}:")))


def _wrapped(message: str, console: Console, indent: int | None = None) -> str:
    """The message with its lines wrapped between words, if it goes to a terminal."""
    if not console.is_terminal:
        return message
    lines = []
    for line in message.split("\n"):
        start = len(line) - len(line.lstrip()) + 2 if indent is None else indent
        lines += textwrap.wrap(
            line,
            console.width,
            subsequent_indent=" " * start,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines)


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
