"""Figures of a page as plain data: each has views, of which the reader chooses one.

``assets/views.js`` draws them. A number that is missing is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Kind = Literal["lines", "boxes", "heat", "scatter"]
_DIGITS = 4


@dataclass(frozen=True)
class View:
    """What a figure shows for one choice.

    Attributes:
        labels: what is chosen, a label for each of the figure's ``choices``.
        series: lines with x, y, low, high and which points are marked; boxes with their quantiles;
            one grid of a heat map, x, y, z; points with x, y, texts, whether a line joins them, and
            perhaps their intervals, x_low to y_high.
        y: title of the vertical axis, or of a heat map's colors; None: that of the figure.
    """

    labels: tuple[str, ...]
    series: Sequence[dict[str, Any]]
    y: str | None = None


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        x, y: titles of the axes.
        choices: what tells the views apart; one that has a single label is not shown.
        limits: of the vertical axis, or of the colors; None: what the numbers take, and 0.
        threshold: where a dashed line is drawn.
        start: the view that is shown first.
        digits: behind the decimal point of numbers that are shown.
    """

    name: str
    title: str
    caption: str
    kind: Kind
    x: str
    y: str
    choices: tuple[str, ...]
    views: Sequence[View]
    limits: tuple[float, float] | None = None
    threshold: float | None = None
    start: int = 0
    is_wide: bool = False
    digits: int = 1

    def plain(self) -> dict[str, Any]:
        """As plain data that JSON holds."""
        return asdict(self)


def in_pairs(figures: Sequence[Figure]) -> list[Figure]:
    """The figures, the last one wide if their number is odd: none is beside an empty place."""
    pairs = list(figures)
    if sum(not figure.is_wide for figure in pairs) % 2:
        pairs[-1] = replace(pairs[-1], is_wide=True)
    return pairs


def plain_number(value: Any) -> float | None:
    """Rounded to what a figure shows; None if it is missing or not finite."""
    if value is None or not math.isfinite(number := float(value)):
        return None
    return round(number, _DIGITS)
