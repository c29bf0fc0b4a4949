"""The numbers that the paper's notebook prints, as sentences and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
KINDS = {"in_sample": "in-sample", "held_out": "held-out", "file": "from a file"}
"""The same in a column of vectors."""
_RATIO = "the ratio of anti-stereotypical answers"

Row = Mapping[str, Any]


def sentences(rows: Iterable[Row]) -> list[str]:
    """A sentence for each model, split and coefficient of ``summary/headline``.

    In-sample and held-out vectors of one place are in the same sentence.
    """
    places: dict[str, list[Row]] = {}
    for row in rows:
        places.setdefault(_place(row), []).append(row)
    return [_sentence(place, of_place) for place, of_place in places.items()]


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
    return f"{row['model']}, {row['split']}, coefficient {coefficient(row['coeff'])}"


def _sentence(place: str, rows: Sequence[Row]) -> str:
    first, *others = rows
    if not others:
        return f"{place}, {VECTORS[first['vectors']]}: {_RATIO} {_rise(first)}."
    texts = [f"with {VECTORS[first['vectors']]}, {_RATIO} {_rise(first)}"]
    texts += [f"with {VECTORS[row['vectors']]}, it {_rise(row)}" for row in others]
    return f"{place}: {'; '.join(texts)}."


def _rise(row: Row) -> str:
    rise = row["anti_rise_percent"]
    if rise is None:
        return (
            f"is not defined, because in {count(row['num_undefined'], 'cell')} none was chosen "
            "before steering"
        )
    if abs(rise) < 0.05:
        return "did not change"
    text = f"{'rose' if rise > 0 else 'fell'} by {abs(rise):.1f} %"
    low, high = row["anti_rise_percent_low"], row["anti_rise_percent_high"]
    if low is None or high is None:
        return text
    return f"{text} (95 % interval of the change {low:+.1f} to {high:+.1f})"
