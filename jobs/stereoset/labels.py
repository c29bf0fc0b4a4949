"""What estimates are called and their colors: the page, the figures and the tables all read it."""

from __future__ import annotations

from collections.abc import Mapping

from jobs.figures.palette import BLUE, GREEN, INK, PINK, SKY, VERMILION, Color

ARROW = "\N{RIGHTWARDS ARROW}"
DELTA = "\N{GREEK CAPITAL LETTER DELTA}"
ROLES = {"s": "stereotype", "a": "anti-stereotype", "u": "unrelated"}
CHANGES = ("s2a", "u2a", "s2u")
FLOWS = tuple(f"flow_{change}" for change in CHANGES)
INTENDED = "flow_s2a"
LEGEND_OF_LABELS = "S stereotype, A anti-stereotype, U unrelated"

LABELS: Mapping[str, str] = {
    **{
        f"{prefix}{name}": name.upper().replace("2", ARROW)
        for prefix in ("", "flow_")
        for name in CHANGES
    },
    **{f"{name}_change": name.upper() for name in ("lms", "ss", "icat")},
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

FAMILIES = {
    "change in log-likelihood (nats per token)": CHANGES,
    "net flow of choices (share)": FLOWS,
    "change in StereoSet scores (points)": ("lms_change", "ss_change", "icat_change"),
}
"""Estimates that share a unit, and with it a scale."""


def way(flow: str, *, is_reversed: bool) -> str:
    """A flow's direction in words: ``unrelated → anti-stereotype``."""
    ends = flow.removeprefix("flow_").split("2")
    source, sink = reversed(ends) if is_reversed else ends
    return f"{ROLES[source]}\N{NO-BREAK SPACE}{ARROW} {ROLES[sink]}"
