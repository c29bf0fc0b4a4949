"""How all figures look: sizes of type, colors that all readers can tell apart, plain text."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import matplotlib.style

from jobs.figures.palette import SERIES

CATEGORIES = tuple(color.light for color in SERIES)
LINE_STYLES = ("-", "--", ":", "-.")
DIVERGING, SEQUENTIAL = "PuOr_r", "viridis"
GREY, FAINT = "#666666", "#C8C8C8"

TEXT_PT, SMALL_PT = 8.0, 7.0
_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT_PT,
    "axes.titlesize": TEXT_PT,
    "axes.labelsize": TEXT_PT,
    "xtick.labelsize": SMALL_PT,
    "ytick.labelsize": SMALL_PT,
    "legend.fontsize": SMALL_PT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 4.0,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-5, 6),
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 2.5,
    "text.parse_math": False,  # a `$` in a name is a dollar sign
    "pdf.fonttype": 42,  # type that printers and editors take
}


def styled() -> AbstractContextManager[None]:
    """The style, for making and for writing figures; what the process had is back afterwards."""
    return mpl.style.context(["default", _SETTINGS])


def category_style(index: int) -> dict[str, str]:
    """Color and line style of the index-th of several categories: 28 that differ."""
    dash, color = divmod(index, len(CATEGORIES))
    return {"color": CATEGORIES[color], "linestyle": LINE_STYLES[dash % len(LINE_STYLES)]}
