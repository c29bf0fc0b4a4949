"""Choosing steerings that reach an intended change with the least side effects.

The best of many looks better than it is. So steerings are chosen by one half of the clusters, and
their numbers come from the other half, which did not choose. A vector that was fitted in-sample
has seen the examples of both halves: on its own data only held-out vectors are free of that.
"""

from __future__ import annotations

import operator
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.estimates.cells import columns_of, defined
from jobs.side_effects.fidelity import Data, columns_of_ends, target_at
from jobs.side_effects.summary import Summary
from jobs.side_effects.sums import Baseline, Measure, SteeredData, Steering
from jobs.side_effects.tables import picked_schema
from steering_core.stats.fidelity import Fidelity
from steersweep.errors import UserError

MOST_PICKED = 20
CHOOSING, REPORTING = 0, 1
"""Halves of the clusters."""

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_PICK = re.compile(r"\s*(?P<metric>\S+?)\s*(?P<comparison>>=|<=|>|<)\s*(?P<value>\S+)\s*")


@dataclass(frozen=True)
class Pick:
    """A condition on a change.

    Attributes:
        metric: ``gap``, or with a data set ``mmlu.acc``.
        value: in the unit of the metric; shares are from 0 to 1.
    """

    metric: str
    comparison: str
    value: float

    def holds(self, change: float) -> bool:
        """Whether a change satisfies it; an undefined one does not."""
        return _COMPARISONS[self.comparison](change, self.value)


def parse_pick(text: str) -> Pick:
    """The condition that a text such as ``s2a >= 0.1`` means.

    Raises:
        UserError: it is not a metric, a comparison and a number.
    """
    match = _PICK.fullmatch(text)
    try:
        value = float(match["value"]) if match else np.nan
    except ValueError:
        value = np.nan
    if match is None or not np.isfinite(value):
        raise UserError(
            f"{text!r} is not a condition: write a metric, one of {', '.join(_COMPARISONS)}, and "
            'a number, such as "gap >= 0.1" or "mmlu.acc > -0.02"'
        )
    return Pick(match["metric"], match["comparison"], value)


def picked(summary: Summary, pick: Pick, seed: int = 0) -> pa.Table:
    """Steerings that satisfy a condition on half of the clusters, and what the other half says.

    Of each data set a random half of the clusters chooses; a cluster is in the same half for all
    steerings and models. At most ``MOST_PICKED``, those first that move the least besides.

    Returns:
        Columns as in ``picked_schema``. ``unintended`` is null of a steering that was not measured
        on all data; such a one comes last.

    Raises:
        UserError: no such metric.
    """
    measure = _measure(summary, pick)
    halves = _Halves(summary, measure, seed)
    chosen = sorted(_chosen(summary, halves, measure, pick), key=lambda pair: _order(pair[1]))
    rows = [
        {"rank": rank, **row, **_confirmed(summary, halves, measure, pick, steering)}
        for rank, (steering, row) in enumerate(chosen[:MOST_PICKED], start=1)
    ]
    return pa.Table.from_pylist(rows, schema=picked_schema(summary.axes))


def _chosen(
    summary: Summary, halves: _Halves, measure: Measure, pick: Pick
) -> Iterator[tuple[Steering, dict[str, float | None]]]:
    """Steerings that satisfy the condition by the half that chooses, and its numbers."""
    for steering, data in summary.cells.items():
        if not steering.sign or measure.data not in data:
            continue
        change = halves.of_data(data[measure.data], CHOOSING).change(measure.metric).change.value
        if pick.holds(change):
            moved = halves.fidelity(steering, data, CHOOSING)
            unintended = defined(moved.unintended.value) if moved else None
            yield steering, {"change_choosing": change, "unintended_choosing": unintended}


def _confirmed(
    summary: Summary, halves: _Halves, measure: Measure, pick: Pick, steering: Steering
) -> dict[str, Any]:
    """A chosen steering, by the half that did not choose."""
    data = summary.cells[steering]
    change = halves.of_data(data[measure.data], REPORTING).change(measure.metric).change
    moved = halves.fidelity(steering, data, REPORTING)
    return {
        **steering.columns(summary.axes),
        "dose": data[measure.data].dose,
        "metric": pick.metric,
        **columns_of({"change": change}, ["change"]),
        **(columns_of_ends("unintended", moved.unintended) if moved else {}),
        "still_holds": pick.holds(change.value) if np.isfinite(change.value) else None,
    }


def _order(numbers: Mapping[str, float | None]) -> tuple[float, float]:
    """The least unintended first; of those that move nothing else, the largest change."""
    change, unintended = numbers["change_choosing"], numbers["unintended_choosing"]
    assert change is not None, "an undefined change satisfies nothing"
    return (np.inf if unintended is None else unintended, -abs(change))


def _measure(summary: Summary, pick: Pick) -> Measure:
    by_name = {known.name: known.measure for known in summary.measures}
    if pick.metric not in by_name:
        names = ", ".join(known.name for known in summary.measures)
        raise UserError(f"no metric is named {pick.metric!r}; there are: {names or 'none'}")
    return by_name[pick.metric]


class _Halves:
    """What was measured, by halves of the clusters."""

    def __init__(self, summary: Summary, measure: Measure, seed: int) -> None:
        self._summary = summary
        self._measure = measure
        self._targets = dict(summary.targets)
        names: dict[str, dict[str, None]] = {}
        for data in summary.cells.values():
            for found in data.values():
                baseline = found.baseline
                of_examples = names.setdefault(baseline.examples, {})
                of_examples.update(dict.fromkeys(baseline.clusters))
        self._half = {
            name: half
            for examples, of_examples in names.items()
            for name, half in _split(sorted(of_examples), examples, seed).items()
        }
        self._baselines: dict[tuple[int, int], tuple[np.ndarray, Baseline]] = {}

    def of_data(self, found: SteeredData, half: int) -> SteeredData:
        """A data set under one steering, by a half (0 or 1) of its clusters."""
        is_in, baseline = self._baseline(found.baseline, half)
        sums = {key: of.of_clusters(is_in) for key, of in found.sums.items()}
        return SteeredData(baseline, found.dose, sums)

    def fidelity(self, steering: Steering, data: Data, half: int) -> Fidelity | None:
        """Of a steering, by a half of the clusters.

        Where nothing is meant, the change that is asked for is.
        """
        place = (steering.model, steering.place)
        if place not in self._targets:
            measures = self._summary.matrix_measures
            self._targets[place] = target_at(place, self._measure, self._summary.cells, measures)
        of_half = {part: self.of_data(found, half) for part, found in data.items()}
        return self._targets[place].fidelity(steering, of_half)

    def _baseline(self, whole: Baseline, half: int) -> tuple[np.ndarray, Baseline]:
        key = (id(whole), half)
        if key not in self._baselines:
            is_in = np.asarray([self._half[name] == half for name in whole.clusters], bool)
            self._baselines[key] = is_in, whole.of_clusters(is_in)
        return self._baselines[key]


def _split(names: list[str], examples: str, seed: int) -> dict[str, int]:
    """Half 0 or 1 of each cluster of one data set; the first half is the larger of two unequal."""
    rng = np.random.default_rng([seed, zlib.crc32(examples.encode())])
    place = rng.permutation(len(names))
    return {name: int(2 * n >= len(names)) for name, n in zip(names, place, strict=True)}
