"""A page of panels, laid out in inches: title, legend and labels have room of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator

from jobs.figures.style import GREY, SMALL_PT, TEXT_PT

_NARROWEST = 5.6
"""Inches; titles fit into it."""
_LINE, _SMALL_LINE = 0.19, 0.16
_EDGE = 0.12
_CHARACTER = 0.062
"""Inches that a character of small type takes, wide ones included."""
_MOST_CHARACTERS = 70


@dataclass(frozen=True)
class Layout:
    """Inches: a panel's size, gaps between panels, margins beside and below them.

    Attributes:
        over: room for titles above the first row of panels.
    """

    width: float
    height: float
    gap_x: float = 0.25
    gap_y: float = 0.62
    left: float = 0.62
    right: float = 0.15
    bottom: float = 0.45
    over: float = 0.45


Legend = Sequence[tuple[Artist, str]]


def page(
    shape: tuple[int, int], layout: Layout, title: str, note: str = "", legend: Legend = ()
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns].

    Panels grow wider where the figure would be too narrow for its title.
    """
    rows, columns = shape
    gaps = layout.gap_x * (columns - 1)
    beside = layout.left + layout.right + gaps
    panel = max(layout.width, (_NARROWEST - beside) / columns)
    width = beside + panel * columns
    notes = _wrapped(note, width)
    legend_columns, legend_rows = _legend_shape(legend, width - _EDGE - layout.right)
    head = _EDGE + _LINE + _SMALL_LINE * (len(notes) + legend_rows) + layout.over
    height = head + layout.height * rows + layout.gap_y * (rows - 1) + layout.bottom
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": layout.left / width,
            "right": 1 - layout.right / width,
            "bottom": layout.bottom / height,
            "top": 1 - head / height,
            "wspace": layout.gap_x / panel,
            "hspace": layout.gap_y / layout.height,
        },
    )
    at = 1 - _EDGE / height
    left = _EDGE / width
    figure.text(left, at, shortened(title), va="top", weight="bold", size=TEXT_PT + 1)
    at -= _LINE / height
    for line in notes:
        figure.text(left, at, line, va="top", color=GREY, size=SMALL_PT)
        at -= _SMALL_LINE / height
    if legend:
        figure.legend(
            [handle for handle, _ in legend],
            [shortened(label) for _, label in legend],
            loc="upper left",
            bbox_to_anchor=(left, at),
            ncols=legend_columns,
            frameon=False,
            borderpad=0.0,
            borderaxespad=0.0,
            handlelength=1.6,
            labelspacing=0.35,
            columnspacing=1.4,
        )
    return figure, axes


def _wrapped(note: str, width: float) -> list[str]:
    lines: list[str] = []
    for word in note.split():
        if lines and (len(lines[-1]) + len(word) + 1) * _CHARACTER < width - 2 * _EDGE:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _legend_shape(legend: Legend, room: float) -> tuple[int, int]:
    """Columns and rows of a legend that fits into ``room`` inches."""
    if not legend:
        return 1, 0
    widest = max(len(shortened(label)) for _, label in legend) * _CHARACTER + 0.4
    columns = max(1, min(len(legend), int(room / widest)))
    return columns, math.ceil(len(legend) / columns)


def shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """The text, with its middle left out where it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    kept = most - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def row_title(axes: Axes, text: str) -> None:
    """What a row of panels is about, above the title of its first panel."""
    axes.annotate(shortened(text), (0, 1), (0, 18), "axes fraction", "offset points", weight="bold")


def blank(axes: Axes) -> None:
    """Say why a panel is empty."""
    axes.text(
        0.5, 0.5, "not complete", ha="center", va="center", color=GREY, transform=axes.transAxes
    )


def label_ticks(
    axis: Axis, positions: Sequence[float], labels: Sequence[str], way: Literal["x", "y"]
) -> None:
    """Ticks at those of the ascending positions whose labels have room beside each other."""
    axes = axis.axes
    figure = axes.get_figure(root=True)
    assert figure is not None
    box, (width, height) = axes.get_position(), figure.get_size_inches()
    if way == "x":
        share = (max(map(len, labels)) * _CHARACTER + 0.08) / (box.width * width)
    else:
        share = 0.14 / (box.height * height)
    apart = share * (positions[-1] - positions[0])
    kept: list[int] = []
    for index, position in enumerate(positions):
        if not kept or position - positions[kept[-1]] >= apart:
            kept.append(index)
    axis.set_major_locator(FixedLocator([positions[index] for index in kept]))
    axis.set_major_formatter(FixedFormatter([labels[index] for index in kept]))
