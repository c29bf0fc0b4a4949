"""Legends and colors of estimates; ``steering_core.quantities`` has their names and units."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.figures.palette import BLUE, GREEN, INK, PINK, SKY, VERMILION, Color
from steering_core.quantities import ARROW, FAMILIES, QUANTITIES

ROLES = {"s": "stereotype", "a": "anti-stereotype", "u": "unrelated"}
CHANGES, FLOWS = FAMILIES[0].names, FAMILIES[1].names
INTENDED = "flow_s2a"
LEGEND_OF_LABELS = "S stereotype, A anti-stereotype, U unrelated"

LABELS: Mapping[str, str] = {
    name: QUANTITIES[name].label for family in FAMILIES for name in family.names
}
"""As short as a heading of a column or a panel: ``S→A``."""


def legend(*, has_intent: bool) -> Mapping[str, str]:
    """By estimate, its name in a legend: ``S→A (intended)``, or ``S→A`` if nothing is intended."""
    if not has_intent:
        return LABELS
    return {
        name: f"{label} (intended)"
        if name.endswith("s2a")
        else f"{label} (side effect)"
        if ARROW in label
        else label
        for name, label in LABELS.items()
    }


COLORS: Mapping[str, Color] = {
    "s2a": BLUE,
    "u2a": VERMILION,
    "s2u": GREEN,
    "lms_change": INK,
    "ss_change": PINK,
    "icat_change": SKY,
}
"""By the name of a change; a flow has the color of its change."""


def way(flow: str, *, is_reversed: bool) -> str:
    """A flow's direction in words: ``unrelated → anti-stereotype``."""
    ends = flow.removeprefix("flow_").split("2")
    source, sink = reversed(ends) if is_reversed else ends
    return f"{ROLES[source]}\N{NO-BREAK SPACE}{ARROW} {ROLES[sink]}"
