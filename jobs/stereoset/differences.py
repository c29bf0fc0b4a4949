"""Paired differences: between models, between runs, and between fitted vectors and nulls.

Two things that were measured on the same examples differ with less noise than their intervals
suggest, because what is peculiar to a target term is in both. The difference of their influences
is what remains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from scipy.stats import t as students_t

from jobs.stereoset.estimates import Row, Stacks
from jobs.stereoset.summary_keys import SummaryKey
from steering_core.quantities import TESTED
from steering_core.stats.clusters import combine, side_by_side
from steering_core.stats.flips import refined_p_values

DIFFERENCES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("kind", "a", "b", "model", "split", "bias_type")),
        ("layer", pa.int32()),
        ("coeff", pa.float64()),
        ("estimate", pa.string()),
        *((name, pa.float64()) for name in ("difference", "low", "high", "p")),
    ]
)
"""``difference`` is a's estimate minus b's. ``model`` is null if a and b are models."""

Planned = Mapping[SummaryKey, int]

_MOST_IN_ALL_PAIRS = 4
"""Models up to which all pairs are compared: pairs grow with the square."""
_DESCRIBED = ("changed", "lms_change", "ss_change")


class BetweenModels:
    """Differences of each two models of a run; of many, of each from the first one.

    Models are added one after the other, and no more of them are kept than the next ones need.
    """

    def __init__(self, num_models: int) -> None:
        self._all_pairs = num_models <= _MOST_IN_ALL_PAIRS
        self._kept: list[tuple[str, Stacks, Planned]] = []

    def add(self, model: str, stacks: Stacks, planned: Planned) -> Iterator[tuple[int, list[Row]]]:
        """(Place, rows) of each model before this one, in the order they were added, minus it."""
        this = model, stacks, planned
        for place, other in enumerate(self._kept):
            yield place, list(differences("models", other, this, model=None))
        if self._all_pairs or not self._kept:
            self._kept.append(this)


def differences(
    kind: str,
    a: tuple[str, Stacks, Planned],
    b: tuple[str, Stacks, Planned],
    *,
    model: str | None,
) -> Iterator[Row]:
    """The rows of two sides, each (name, sums, plan): a minus b for every row that both have.

    ``p`` is of a sign-flip test over clusters for the log-likelihood changes and the net flows, of
    a t test for the others.
    """
    (name_a, stacks_a, planned_a), (name_b, stacks_b, planned_b) = a, b
    # A pooled row of fewer cells (nulls of some layers, a group without held-out vectors) is of
    # other examples or layers than one of all.
    common = {key for key, num in planned_a.items() if planned_b.get(key) == num}
    for stack in sorted({(key.split, key.bias_type, key.layer is None) for key in common}):
        found_a, found_b = stacks_a.get(stack), stacks_b.get(stack)
        if found_a is None or found_b is None:
            continue
        (sums_a, estimates_a), (sums_b, estimates_b) = found_a, found_b
        keys = [SummaryKey(*stack[:2], *cell) for cell in sums_a.cells if cell in sums_b.cells]
        keys = [
            key
            for key in keys
            if sums_a.is_complete(key, planned_a) and sums_b.is_complete(key, planned_b)
        ]
        if not keys:
            continue
        at_a = [sums_a.cells.index((key.layer, key.coeff)) for key in keys]
        at_b = [sums_b.cells.index((key.layer, key.coeff)) for key in keys]
        both = [estimates_a.tested[at_a], estimates_b.tested[at_b]]
        tested = combine([1.0, -1.0], both).without_examples()
        described = combine(
            [1.0, -1.0],
            [
                side_by_side([of.estimates[name][at][:, None] for name in _DESCRIBED])
                for of, at in ((estimates_a, at_a), (estimates_b, at_b))
            ],
        ).without_examples()
        statistic = np.abs(described.value) / np.where(
            described.standard_error > 0, described.standard_error, np.inf
        )
        p_of_described = 2 * students_t.sf(statistic, described.degrees_of_freedom)
        for names, part, p in (
            (TESTED, tested, refined_p_values(tested)),
            (_DESCRIBED, described, p_of_described),
        ):
            low, high = part.interval()
            for (row, key), (column, estimate) in (
                (x, y) for x in enumerate(keys) for y in enumerate(names)
            ):
                if not np.isnan(part.value[row, column]):
                    yield {
                        "kind": kind,
                        "a": name_a,
                        "b": name_b,
                        "model": model,
                        **key._asdict(),
                        "estimate": estimate,
                        "difference": float(part.value[row, column]),
                        "low": float(low[row, column]),
                        "high": float(high[row, column]),
                        "p": float(p[row, column]),
                    }
