"""Which of many values are drawn: a page holds a few, and a report is made in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import pandas as pd

from jobs.figures.selection import spread

MOST_BY_COEFF = 6
"""Figures of one kind that are for one split and one coefficient."""

Value = TypeVar("Value")


def ordered(column: Iterable[Value]) -> list[Value]:
    """The distinct values of a column, sorted."""
    return sorted(set(column))  # type: ignore[type-var]


def drawn_coeffs(cells: pd.DataFrame) -> list[float]:
    """The coefficients that have figures of their own."""
    return spread(
        ordered(cells["coeff"]), max(1, MOST_BY_COEFF // max(1, cells["split"].nunique()))
    )


def by_split_and_coeff(cells: pd.DataFrame) -> list[tuple[str, float, pd.DataFrame]]:
    """(split, coefficient, its cells) for each figure of a kind that is drawn so."""
    return [
        (split, coeff, of)
        for split in ordered(cells["split"])
        for coeff in drawn_coeffs(cells)
        if len(of := cells[(cells["split"] == split) & (cells["coeff"] == coeff)])
    ]


def largest(rows: pd.DataFrame, names: Iterable[str]) -> float:
    """The largest absolute value in some columns, 0 where there is none."""
    return float(np.abs(rows[list(names)].fillna(0.0).to_numpy(float)).max())
