"""The numbers that the paper's notebook prints, as sentences and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jobs.words import coefficient, count

PAPER = (
    "The Necessity for Intervention Fidelity: Unintended Side Effects When Steering LLMs",
    "Jonas Raedler, Weiyue Li, Alyssa Taliotis, Manasvi Goyal, Siddharth Swaroop, Weiwei Pan",
    "https://openreview.net/forum?id=8nYQEGou3L",
)
"""Title, authors, link."""
VECTORS = {
    "in_sample": "in-sample vectors",
    "held_out": "held-out vectors",
    "file": "vectors from a file",
}

Row = Mapping[str, Any]


def sentences(rows: Iterable[Row]) -> list[str]:
    """A sentence for each row of ``summary/headline``."""
    return [f"{_place(row)}: {_rise(row)}." for row in rows]


def averages(rows: Iterable[Row]) -> str:
    """What the numbers are means of, in words; nothing if there is no row."""
    of = {(row["num_layers"], row["num_bias_types"]) for row in rows}
    if len(of) != 1:
        return "Mean over layers within a bias type, then over bias types, all with equal weight."
    ((layers, bias_types),) = of
    return (
        f"Mean over {count(layers, 'layer')} within a bias type, then over "
        f"{count(bias_types, 'bias type')}, all with equal weight, as in the paper's notebook."
    )


def _place(row: Row) -> str:
    return (
        f"{row['model']}, {row['split']}, coefficient {coefficient(row['coeff'])}, "
        f"{VECTORS[row['vectors']]}"
    )


def _rise(row: Row) -> str:
    rise = row["anti_rise_percent"]
    if rise is None:
        return (
            "the ratio of anti-stereotypical answers is not defined, because in "
            f"{count(row['num_undefined'], 'cell')} none was chosen before steering"
        )
    if abs(rise) < 0.05:
        return "the ratio of anti-stereotypical answers did not change"
    word = "rose" if rise > 0 else "fell"
    text = f"the ratio of anti-stereotypical answers {word} by {abs(rise):.1f} %"
    low, high = row["anti_rise_percent_low"], row["anti_rise_percent_high"]
    if low is None or high is None:
        return text
    return f"{text} (95 % interval of the change {low:+.1f} to {high:+.1f})"
