"""Tables of a page: cells of text with the value that they are sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.page.words import DASH, coefficient, number

if TYPE_CHECKING:
    import pyarrow as pa

_FEW_ROWS = 20
_MANY_ROWS = 400
_MANY_COLUMNS = 12

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Column:
    """A heading; ``hint`` says what the numbers are, ``before`` precedes its word in a caption."""

    title: str
    hint: str = ""
    is_number: bool = True
    before: str = ""

    @property
    def label(self) -> str:
        """What stands before a cell on a narrow screen, where a row is a list."""
        return f"{self.title}, {self.hint}" if self.hint else self.title


@dataclass(frozen=True)
class Cell:
    """``sort`` orders rows, None last; ``detail`` is the interval; ``tone`` its color."""

    text: str
    sort: str | float | None
    detail: str = ""
    mark: str = ""
    tone: str = ""


MISSING = Cell(DASH, None)
"""A value that there is not."""


def word_cell(text: str) -> Cell:
    """A name or another text."""
    return Cell(text, text)


def count_cell(value: int) -> Cell:
    """A count, with thousands separators."""
    return Cell(f"{value:,}", value)


def coeff_cell(value: float) -> Cell:
    """A coefficient with every digit that it has."""
    return Cell(coefficient(value), value)


@dataclass(frozen=True)
class Table:
    """A table that its readers sort.

    Attributes:
        note: a text under it.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def is_long(self) -> bool:
        """Whether it scrolls in a box of its own."""
        return len(self.rows) > _FEW_ROWS

    @property
    def is_huge(self) -> bool:
        """Whether a browser does well to draw it only when it comes into view."""
        return len(self.rows) > _MANY_ROWS

    @property
    def is_compact(self) -> bool:
        """Whether its columns have to be narrow."""
        return len(self.columns) >= _MANY_COLUMNS

    def condensed(self) -> Table:
        """Without the columns of words that are the same in every row: the caption says them."""
        if not self.rows:
            return self
        same = [
            index
            for index, column in enumerate(self.columns)
            if not column.is_number and len({row[index].text for row in self.rows}) == 1
        ]
        return replace(
            self,
            caption=", ".join([self.caption, *map(self._in_caption, same)]),
            columns=_without(self.columns, same),
            rows=tuple(_without(row, same) for row in self.rows),
        )

    def _in_caption(self, index: int) -> str:
        return self.columns[index].before + self.rows[0][index].text


def table_of_rows(name: str, caption: str, rows: pa.Table) -> Table:
    """Any rows as they are: texts, and numbers with four digits."""
    columns = []
    for field in rows.schema:
        is_number = str(field.type).startswith(("int", "uint", "float", "double"))
        columns.append(Column(field.name, is_number=is_number))
    cells = [tuple(map(_cell, row.values())) for row in rows.to_pylist()]
    return Table(name, caption, tuple(columns), tuple(cells))


def _cell(value: Any) -> Cell:
    if value is None or value != value:  # NaN
        return MISSING
    if isinstance(value, float):
        return Cell(number(value, 4), value)
    if isinstance(value, int) and not isinstance(value, bool):
        return count_cell(value)
    return word_cell(str(value))


def _without(entries: Sequence[_Entry], indices: Sequence[int]) -> tuple[_Entry, ...]:
    return tuple(entry for index, entry in enumerate(entries) if index not in indices)
