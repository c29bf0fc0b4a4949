"""What estimates are called in figures, and their colours."""

from __future__ import annotations

from jobs.figures.style import OKABE_ITO

CHANGE_COLOURS = {"s2a": OKABE_ITO[0], "u2a": OKABE_ITO[2], "s2u": OKABE_ITO[1]}
LABELS = {
    "s2a": "S → A",
    "u2a": "U → A",
    "s2u": "S → U",
    "lms_change": "LMS",
    "ss_change": "SS",
    "icat_change": "ICAT",
} | {f"flow_{pair}": f"{pair[0].upper()} → {pair[2].upper()}" for pair in CHANGE_COLOURS}
LEGEND_OF_LABELS = "S stereotype, A anti-stereotype, U unrelated"

FAMILIES = {
    "change in log-likelihood (nats per token)": ("s2a", "u2a", "s2u"),
    "net flow of choices (share)": ("flow_s2a", "flow_u2a", "flow_s2u"),
    "change in StereoSet scores (points)": ("lms_change", "ss_change", "icat_change"),
}
"""Estimates that share a unit, and with it a scale."""
