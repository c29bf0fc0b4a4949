"""Colors of figures and pages, after Okabe and Ito (2008): readers with any color vision tell them
apart. This module imports nothing, so that pages need no matplotlib."""

from __future__ import annotations

from typing import NamedTuple


class Color(NamedTuple):
    """A color as ``#rrggbb`` on white, which files have, and on a dark page."""

    light: str
    dark: str


BLUE = Color("#0072b2", "#56b4e9")
VERMILION = Color("#d55e00", "#f08a3c")
GREEN = Color("#009e73", "#1fbf92")
PINK = Color("#b0568c", "#e08fbd")
OCHRE = Color("#b97f00", "#f0e442")
SKY = Color("#3f95c9", "#6ca8ef")
INK = Color("#1c2330", "#e4e8ee")

SERIES = (BLUE, VERMILION, GREEN, PINK, OCHRE, SKY, INK)
"""Of categories without a meaning of their own, such as models."""
