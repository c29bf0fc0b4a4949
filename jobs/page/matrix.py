"""A matrix of changes as a page shows it: rows in groups, columns of kinds, a color for the size.

``assets/matrix.html.j2`` makes it a table; ``assets/matrix.js`` filters it and offers its numbers
as a CSV file. Everything works on a page that loads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from jobs.page.views import Figure
from jobs.page.words import number

LEVELS = (0.05, 0.1, 0.2, 0.4)
"""Sizes at which a cell's color gets stronger, in standard deviations."""
_DIGITS = 6


@dataclass(frozen=True)
class MatrixColumn:
    """What is measured.

    Attributes:
        kind, set: columns next to each other share a heading if these are equal.
        title: of the column alone.
        unit: of its numbers; empty for plain numbers.
        better: ``higher``, ``lower``, or empty.
        hint: what the numbers are, for a reader who points at the heading.
    """

    kind: str
    set: str
    title: str
    unit: str = ""
    better: str = ""
    hint: str = ""

    @property
    def name(self) -> str:
        """The column where its headings are not seen."""
        return f"{self.set}: {self.title}" if self.set else self.title

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}.get(self.better, "")


@dataclass(frozen=True)
class MatrixCell:
    """A change: its text, its level (-4 to 4, for the color), whether it is clear, and details."""

    text: str
    level: int
    is_clear: bool
    title: str

    @property
    def look(self) -> str:
        """Classes of the cell: ``p1`` to ``p4`` above 0, ``n1`` to ``n4`` below, ``y`` if clear."""
        sign = "p" if self.level > 0 else "n"
        color = [f"{sign}{abs(self.level)}"] if self.level else []
        return " ".join([*color, *(["y"] if self.is_clear else [])])


@dataclass(frozen=True)
class MatrixRow:
    """A steering.

    Attributes:
        picks: for each filter, the number of the row's label; -1: it is shown whatever is picked.
        cells: for each column; None: not measured.
    """

    title: str
    picks: tuple[int, ...]
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class RowGroup:
    """Rows below a title of their own."""

    title: str
    rows: tuple[MatrixRow, ...]


@dataclass(frozen=True)
class Filter:
    """What a reader picks one label of, or all."""

    title: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """A heading over the columns ``first`` to ``last``."""

    title: str
    first: int
    last: int

    @property
    def num(self) -> int:
        """How many columns."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Matrix:
    """A matrix with everything that a page shows of it.

    Attributes:
        caption: what it shows, in a sentence.
        corner: what rows are.
        clear: what a clear change is, in a sentence.
        csv: the numbers behind it by column, as ``csv_columns`` gives them.
        file: name of the CSV file.
        figures: drawn below it.
    """

    caption: str
    corner: str
    columns: tuple[MatrixColumn, ...]
    groups: tuple[RowGroup, ...]
    filters: tuple[Filter, ...]
    clear: str
    csv: Mapping[str, Any]
    file: str
    figures: Sequence[Figure] = ()

    @property
    def kinds(self) -> list[Span]:
        """Headings of the kinds."""
        return _spans([column.kind for column in self.columns])

    @property
    def sets(self) -> list[Span]:
        """Headings of the sets; one does not reach over two kinds."""
        spans = _spans([(column.kind, column.set) for column in self.columns])
        return [Span(span.title[1], span.first, span.last) for span in spans]

    @property
    def drawn(self) -> list[dict[str, Any]]:
        """Its figures as plain data."""
        return [figure.plain() for figure in self.figures]

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Look and text of each color, from far below 0 to far above."""
        sizes = [number(size, 2) for size in LEVELS]
        below = [(f"n{n + 1}", f"\N{MINUS SIGN}{size}") for n, size in enumerate(sizes)]
        above = [(f"p{n + 1}", f"+{size}") for n, size in enumerate(sizes)]
        return [*reversed(below), ("", "0"), *above]

    @property
    def has_better(self) -> bool:
        """Whether of some column it is known which way is better."""
        return any(column.better for column in self.columns)


def level(standardized: float | None) -> int:
    """-4 to 4, for the color of a change in standard deviations; 0 if it is not known."""
    if standardized is None or not math.isfinite(standardized):
        return 0
    size = sum(abs(standardized) >= least for least in LEVELS)
    return size if standardized > 0 else -size


def csv_columns(table: pa.Table) -> dict[str, Any]:
    """A table as plain data that is small on a page.

    Texts are ``{"texts", "at"}``: each once, and its place in every row. Numbers have six digits.
    """
    return {name: _csv_column(table[name].to_pylist()) for name in table.schema.names}


def _csv_column(values: Sequence[Any]) -> Any:
    if any(isinstance(value, str) for value in values):
        texts = list(dict.fromkeys(values))
        places = {text: n for n, text in enumerate(texts)}
        return {"texts": texts, "at": [places[value] for value in values]}
    return [_csv_value(value) for value in values]


def _csv_value(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _spans(titles: Sequence[Any]) -> list[Span]:
    spans, first = [], 0
    for title, equal in groupby(titles):
        num = len(list(equal))
        spans.append(Span(title, first, first + num - 1))
        first += num
    return spans
