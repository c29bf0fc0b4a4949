"""Tables of a page: cells of text with the value that they are sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

_FEW_ROWS = 20

_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Column:
    """A heading; ``hint`` says what the numbers are."""

    title: str
    hint: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class Cell:
    """``sort`` orders rows; None stands last. ``detail`` is the interval."""

    text: str
    sort: str | float | None
    detail: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table that its readers sort.

    Attributes:
        note: what is said under it.
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
            caption=", ".join([self.caption, *(self.rows[0][index].text for index in same)]),
            columns=_without(self.columns, same),
            rows=tuple(_without(row, same) for row in self.rows),
        )


def _without(entries: Sequence[_Entry], indices: Sequence[int]) -> tuple[_Entry, ...]:
    return tuple(entry for index, entry in enumerate(entries) if index not in indices)
