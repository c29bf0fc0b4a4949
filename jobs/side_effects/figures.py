"""Side effects as files: the matrix, and intended against unintended changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jobs.figures.bands import legend_line
from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, page, row_title, shortened
from jobs.figures.palette import BLUE, VERMILION
from jobs.figures.style import CATEGORIES, FAINT, GREY, SMALL_PT
from jobs.page.matrix import LEVELS, Matrix, MatrixColumn, MatrixRow
from jobs.page.views import View
from jobs.page.words import MINUS, number
from jobs.side_effects.page import figures_of, matrix_of
from jobs.side_effects.words import Tables

NAMES = re.compile(r"side_effects|pareto")
"""Of all figures that are made here."""
_CELL_X, _CELL_Y = 0.5, 0.17
_CHARACTER = 0.055
"""Inches: a cell, and a character of a label."""
_MOST_CHARACTERS = 44
_STRONGEST = 0.6
"""How much of the full color the largest changes have, so that text on it can be read."""
_PER_ROW = 4


def planned_figures(tables: Tables) -> Mapping[str, Drawing]:
    """Figures by name, still to be drawn: the matrix, and the Pareto figure if there is a target.

    Args:
        tables: of ``jobs.side_effects.tables``, by name.
    """
    matrix = matrix_of(tables)
    if not matrix.columns:
        return {}
    drawings: dict[str, Drawing] = {"side_effects": partial(_draw_matrix, matrix)}
    for figure in figures_of(tables):
        drawings[figure.name] = partial(
            _draw_pareto, [view for view in figure.views if view.series], figure.x, figure.y
        )
    return drawings


def _draw_matrix(matrix: Matrix) -> Figure:
    lines: list[tuple[str, MatrixRow | None]] = [
        (shortened(title, _MOST_CHARACTERS), row)
        for group in matrix.groups
        for title, row in ((group.title, None), *((row.title, row) for row in group.rows))
    ]
    heads = [_head(column) for column in matrix.columns]
    figure, ((axes,),) = page(
        (1, 1),
        Layout(
            width=_CELL_X * len(heads),
            height=_CELL_Y * len(lines),
            left=0.3 + _CHARACTER * max(len(label) for label, _ in lines),
            right=0.2,
            bottom=0.15,
            over=0.62 + _CHARACTER * max(map(len, heads)),
        ),
        "Side effects: what each steering changed",
        f"Bold with a dot: {matrix.clear} Colors: change in standard deviations over examples.",
        _legend(),
    )
    # A panel that grew for its title keeps its cells: they take the left of it.
    width = axes.get_position().width * figure.get_size_inches()[0] / _CELL_X
    axes.set(xlim=(0, width), ylim=(len(lines), 0))
    axes.set_axis_off()
    for n, (label, row) in enumerate(lines):
        weight = "normal" if row else "bold"
        axes.text(-0.15, n + 0.5, label, ha="right", va="center", weight=weight, size=SMALL_PT)
    _draw_cells(axes, [(n, row) for n, (_, row) in enumerate(lines) if row is not None])
    _draw_heads(axes, matrix, heads)
    return figure


def _head(column: MatrixColumn) -> str:
    """A column's label, with the data set and the unit."""
    unit = f", {column.unit}" if column.unit else ""
    return shortened(column.name, _MOST_CHARACTERS) + unit


def _draw_heads(axes: Axes, matrix: Matrix, heads: Sequence[str]) -> None:
    """Labels that read upwards over their columns, below the kinds."""
    for n, head in enumerate(heads):
        axes.text(n + 0.5, -0.25, head, rotation=90, ha="center", va="bottom", size=SMALL_PT)
    top = -0.25 - (_CHARACTER * max(map(len, heads)) + 0.08) / _CELL_Y
    for span in matrix.kinds:
        axes.plot(
            [span.first + 0.08, span.last + 0.92], [top, top], color=GREY, lw=0.8, clip_on=False
        )
        room = int(span.num * _CELL_X / _CHARACTER)
        for line, words in enumerate(reversed(_wrapped(span.title, room))):
            axes.text(span.first + 0.08, top - 0.3 - 0.75 * line, words, va="bottom", size=SMALL_PT)


def _wrapped(title: str, room: int) -> list[str]:
    lines: list[str] = []
    for word in title.split():
        if lines and len(lines[-1]) + len(word) < room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _draw_cells(axes: Axes, rows: Sequence[tuple[int, MatrixRow]]) -> None:
    places = [
        (x, y, cell) for y, row in rows for x, cell in enumerate(row.cells) if cell is not None
    ]
    # One collection: a matrix has thousands of cells, and a patch each takes seconds.
    squares = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for x, y, _ in places]
    colors = [_color(cell.level) for *_, cell in places]
    axes.add_collection(
        PolyCollection(squares, facecolors=colors, edgecolors=FAINT, linewidths=0.4, clip_on=False)
    )
    for x, y, cell in places:
        text = f"{cell.text}\N{BULLET}" if cell.is_clear else cell.text
        weight = "bold" if cell.is_clear else "normal"
        size = SMALL_PT - 0.5
        axes.text(x + 0.5, y + 0.52, text, weight=weight, ha="center", va="center", size=size)


def _color(level: int) -> tuple[float, float, float]:
    """White for 0, then bluer below and more orange above, as on the page."""
    share = _STRONGEST * abs(level) / len(LEVELS)
    red, green, blue = to_rgb((VERMILION if level > 0 else BLUE).light)
    return (1 - share + share * red, 1 - share + share * green, 1 - share + share * blue)


def _legend() -> list[tuple[Any, str]]:
    sizes = [
        *((-n, f"{MINUS}{number(LEVELS[n - 1], 2)}") for n in range(len(LEVELS), 0, -1)),
        (0, "0"),
        *((n, f"+{number(LEVELS[n - 1], 2)}") for n in range(1, len(LEVELS) + 1)),
    ]
    return [
        (Patch(facecolor=_color(level), edgecolor=FAINT, linewidth=0.4), text)
        for level, text in sizes
    ]


def _draw_pareto(views: Sequence[View], x: str, y: str) -> Figure:
    """A panel for each model and group, in the order of the page's figure."""
    columns = min(_PER_ROW, len(views))
    num_rows = -(-len(views) // columns)
    several = len({view.labels[0] for view in views}) > 1
    names = [series["name"] for series in views[0].series]
    styles: list[dict[str, Any]] = [
        {
            "color": CATEGORIES[n],
            "marker": "osD"[n],
            "markersize": 3.5,
            "linestyle": ":" if series["is_line"] else "",
        }
        for n, series in enumerate(views[0].series)
    ]
    layout = Layout(width=1.6, height=1.5, gap_x=0.5, gap_y=0.6, over=0.3)
    if several:  # models are titles above those of the panels
        layout = replace(layout, gap_y=0.75, over=0.5)
    figure, axes = page(
        (num_rows, columns),
        layout,
        "Intended and unintended change",
        "A point for each steering. The line joins the vectors that no other one beats in both. "
        "Whiskers: 95 % intervals, each for one number alone. SD: standard deviations over "
        "examples.",
        [(legend_line(style), name) for style, name in zip(styles, names, strict=True)],
    )
    for panel, view in zip(axes.flat, views, strict=False):
        for style, series in zip(styles, view.series, strict=True):
            _draw_points(panel, series, style)
        panel.set_title(view.labels[1])
        panel.set_xlim(left=min(0, panel.get_xlim()[0]))
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
        if several:
            row_title(panel, view.labels[0])
    for panel in axes.flat[len(views) :]:
        panel.set_axis_off()
    for panel in axes.flat[: len(views)]:
        panel.set_xlabel(x)
    for row in axes:
        row[0].set_ylabel(y)
    return figure


def _draw_points(panel: Axes, series: Mapping[str, Any], style: Mapping[str, Any]) -> None:
    xs, ys = series["x"], series["y"]
    panel.plot(xs, ys, **style)
    if "x_low" in series:
        thin = {"colors": style["color"], "linewidth": 0.6}
        panel.hlines(ys, _known(series["x_low"], xs), _known(series["x_high"], xs), **thin)
        panel.vlines(xs, _known(series["y_low"], ys), _known(series["y_high"], ys), **thin)


def _known(ends: Sequence[float | None], values: Sequence[float]) -> list[float]:
    """Ends of intervals; the value itself if there is none."""
    return [value if end is None else end for end, value in zip(ends, values, strict=True)]
