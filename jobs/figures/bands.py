"""Lines of an estimate with its 95 % interval."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

_MOST_MARKED = 30


def draw_band(axes: Axes, rows: pd.DataFrame, x: str, name: str, style: dict[str, Any]) -> None:
    """The estimate ``name`` over the column ``x``: a line, and a band between its ends.

    Where there are few points, whiskers instead of a band, which would have no width.
    """
    rows = rows.sort_values(x)
    marker = "o" if len(rows) <= _MOST_MARKED else None
    axes.plot(rows[x], rows[name], marker=marker, gid=name, **style)
    low, high = rows[f"{name}_low"], rows[f"{name}_high"]
    if len(rows) < 3:
        axes.vlines(rows[x], low, high, colors=style["color"], linewidth=0.8)
    else:
        axes.fill_between(rows[x], low, high, color=style["color"], alpha=0.12, linewidth=0)


def legend_line(style: dict[str, Any]) -> Line2D:
    """What stands for a line in a legend."""
    return Line2D([], [], **style)
