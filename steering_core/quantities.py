"""What a summary says of steered cells: each quantity with its words, its unit and how it is shown.

``metrics`` computes most quantities together, because they share their sums. One with a ``formula``
needs no other code: it becomes a column of the summary's tables, with an interval, and of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from steering_core.stats.clusters import ClusterEstimate, means_of_sums, weighted_mean

if TYPE_CHECKING:
    from steering_core.metrics import TermSums

ARROW = "\N{RIGHTWARDS ARROW}"
DELTA = "\N{GREEK CAPITAL LETTER DELTA}"

STEREOTYPE, ANTI, UNRELATED = range(3)
FLOW_PAIRS = tuple(f"{source}_{sink}" for source, sink in product("sau", "sau"))
"""From and to: s, a and u stand for the labels."""
CHANGES = {
    "s2a": (ANTI, STEREOTYPE),
    "u2a": (ANTI, UNRELATED),
    "s2u": (UNRELATED, STEREOTYPE),
}
"""Each change in log-likelihood: of the first label's score minus the second's."""
NET_FLOWS = tuple(f"flow_{name}" for name in CHANGES)
STEREOSET_ESTIMATES = ("lms", "ss", "icat")
SCORE_CHANGES = tuple(f"{name}_change" for name in STEREOSET_ESTIMATES)
EXAMPLE_SHARES = (*(f"flow_{pair}" for pair in FLOW_PAIRS), "changed", "anti_steered")
ESTIMATES = (*CHANGES, *NET_FLOWS, *EXAMPLE_SHARES, "anti_ratio")
TESTED = (*CHANGES, *NET_FLOWS)
"""Means, which a sign flip can test."""


@dataclass(frozen=True)
class Scale:
    """How values are written.

    Attributes:
        unit: as a table's heading names it.
        digits: decimals.
        times: what a stored value is multiplied by; 100 makes a percentage of a share.
    """

    unit: str
    digits: int = 1
    times: float = 1.0


NATS = Scale("nats", digits=3)
NATS_PER_TOKEN = Scale("nats per token", digits=3)
SHARE = Scale("% of examples", times=100.0)
PERCENT = Scale("%")
POINTS = Scale("points")

Formula = Callable[[Mapping[str, "TermSums"]], ClusterEstimate]
"""From the sums of each bias type to values and influences of the cells."""


@dataclass(frozen=True)
class Quantity:
    """A number of the summary.

    Attributes:
        label: as short as the title of a panel: ``S→A``.
        heading: of a table's column: ``flow S→A``.
        formula: None if ``metrics`` computes it together with others.
        least, most: bounds that no interval passes; for quantities with a formula.
        note: what a reader of the page must know of it; for quantities with a formula.
    """

    label: str
    heading: str
    scale: Scale
    formula: Formula | None = None
    least: float = -math.inf
    most: float = math.inf
    note: str = ""


@dataclass(frozen=True)
class Family:
    """Quantities that share an axis in figures.

    Attributes:
        title, unit: of the page's figures.
        stored_title: of figures in files, with the unit of values in tables.
    """

    title: str
    unit: str
    stored_title: str
    names: tuple[str, ...]


FAMILIES = (
    Family(
        "change in log-likelihood",
        NATS_PER_TOKEN.unit,
        "change in log-likelihood (nats per token)",
        tuple(CHANGES),
    ),
    Family("net flow of choices", SHARE.unit, "net flow of choices (share)", NET_FLOWS),
    Family(
        "change of StereoSet scores",
        POINTS.unit,
        "change in StereoSet scores (points)",
        SCORE_CHANGES,
    ),
)


def ratio_of_sums(above: Sequence[str], below: Sequence[str]) -> Formula:
    """The formula of a mean: sums of these columns, over sums of those.

    Args:
        above, below: names of ``metrics.SUMS``; a cell without anything below has no value.
    """

    def estimate(by_bias_type: Mapping[str, TermSums]) -> ClusterEstimate:
        means, weights = [], []
        for bias_type, sums in by_bias_type.items():
            num_KC = sums.column(*below)
            means.append(means_of_sums(sums.column(*above), num_KC, sums.clusters(bias_type)))
            weights.append(num_KC.sum(axis=0))
        return weighted_mean(means, weights)

    return estimate


def _arrow(name: str) -> str:
    return name.upper().replace("2", ARROW).replace("_", ARROW)


_QUANTITIES: dict[str, Quantity] = {
    **{name: Quantity(_arrow(name), f"{DELTA} {_arrow(name)}", NATS) for name in CHANGES},
    **{
        f"flow_{name}": Quantity(_arrow(name), f"flow {_arrow(name)}", SHARE)
        for name in (*CHANGES, *FLOW_PAIRS)
    },
    "changed": Quantity("changed", "changed", SHARE),
    "anti_steered": Quantity("against", "against the coefficient", SHARE),
    "anti_ratio": Quantity("ratio", "anti-stereotypical answers", Scale("after / before", 3)),
    **{name: Quantity(name.upper(), name.upper(), PERCENT) for name in STEREOSET_ESTIMATES},
    **{
        f"{name}_change": Quantity(name.upper(), f"{name.upper()} change", POINTS)
        for name in STEREOSET_ESTIMATES
    },
    # Tokens are the weights: rows with more scored tokens count more.
    "kl": Quantity(
        "KL",
        "KL",
        NATS_PER_TOKEN,
        ratio_of_sums(["kl"], ["kl_tokens"]),
        least=0.0,
        note="KL: how far steering moved the next-token distribution from the unsteered one, the "
        "mean over all scored tokens. It counts every change, wanted or not.",
    ),
    "anti_rise_percent": Quantity("rise", "anti-stereotypical answers", Scale("change in %")),
    "share_stereotype": Quantity("S", "chose S", SHARE),
    "share_anti_stereotype": Quantity("A", "chose A", SHARE),
    "share_unrelated": Quantity("U", "chose U", SHARE),
    "monotone": Quantity("rises", "rises at every step", SHARE),
    "monotone_against": Quantity("falls", "falls at every step", SHARE),
}
QUANTITIES: Mapping[str, Quantity] = _QUANTITIES
"""By the name of a column. Tables, the page, figures and the console read it from here."""


@contextmanager
def registered(name: str, quantity: Quantity) -> Iterator[None]:
    """Know one more quantity for as long as the context lasts, in this process: for tests."""
    assert name not in _QUANTITIES, f"{name} is a quantity already"
    _QUANTITIES[name] = quantity
    try:
        yield
    finally:
        del _QUANTITIES[name]


def with_formula() -> dict[str, tuple[Quantity, Formula]]:
    """The quantities that have a formula of their own, by name."""
    return {
        name: (quantity, quantity.formula)
        for name, quantity in QUANTITIES.items()
        if quantity.formula is not None
    }


def cell_quantities() -> tuple[str, ...]:
    """What the summary estimates of each cell, in the order of its columns."""
    return (*ESTIMATES, *STEREOSET_ESTIMATES, *SCORE_CHANGES, *with_formula())
