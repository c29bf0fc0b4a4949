"""Estimates of a cell from its sums, with intervals and tests.

Shapes: K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import t as students_t

from jobs.estimates.sums import CellSums, MetricSums
from steering_core.datasets.base import Metric
from steering_core.stats import discrete
from steering_core.stats.clusters import Cluster, ClusterEstimate, combine, means_of_sums
from steering_core.stats.flips import refined_p_values
from steering_core.stats.smooth import function_of_means, gradient, is_affine

MOST_FLIPPED = 1_000
"""Clusters that a test flips at most; more are put together at random."""
_EXAMPLES = "examples"
"""Layers score the same examples, so their errors as independent examples go together."""


@dataclass(frozen=True)
class Ranged:
    """An estimate and its 95 % interval, whose ends are NaN if there is none.

    Attributes:
        estimate: [1].
        limits: beyond which it cannot be.
    """

    estimate: ClusterEstimate
    low: float = np.nan
    high: float = np.nan
    limits: tuple[float, float] = (-np.inf, np.inf)

    @property
    def value(self) -> float:
        """Of the estimate."""
        return float(self.estimate.value[0])


@dataclass(frozen=True)
class Changed:
    """A metric without steering and with it, over the same examples, and the difference."""

    before: ClusterEstimate
    after: Ranged
    change: Ranged


Estimates = Mapping[str, Ranged]
"""By column: ``<metric>``, ``<metric>_change``, ``changed``, ``anti_steered``, ``kl``."""


def estimates_of(
    sums: CellSums, metrics: Sequence[Metric], *, gap: str | None, coeff: float | None
) -> Estimates:
    """All estimates of a cell.

    Args:
        gap: key of the metric that steering is meant to raise; None: there is none.
        coeff: which way it pushes; None: nothing is intended, so nothing is against it.
    """
    found = {}
    if sums.compared.any():
        found["changed"] = _share(sums.clusters, sums.compared, sums.changed)
    for metric in metrics:
        of_metric = sums.of_metric(metric.key)
        changed = changed_by(metric, of_metric, sums.clusters)
        found |= {metric.key: changed.after, f"{metric.key}_change": changed.change}
        if metric.key == gap and coeff:
            against = of_metric.down if coeff > 0 else of_metric.up
            found["anti_steered"] = _share(sums.clusters, of_metric.num, against)
    divergence, tokens = sums.divergence
    if tokens.any():
        clusters = clusters_of(sums.clusters)
        found["kl"] = _of_clusters(_means(clusters, tokens, divergence[:, None]))
    return found


def mean_over_layers(layers: Sequence[Estimates]) -> Estimates:
    """Means with the same weight for each layer; layers score the same examples."""
    names = [name for name in layers[0] if all(name in of_layer for of_layer in layers)]
    found = {}
    for name in names:
        parts = [of_layer[name] for of_layer in layers]
        mean = combine([1 / len(parts)] * len(parts), [part.estimate for part in parts])
        has_intervals = all(np.isfinite(part.low) for part in parts)
        found[name] = _of_clusters(mean, parts[0].limits) if has_intervals else Ranged(mean)
    return found


def p_of_change(metric: Metric, change: ClusterEstimate, num_terms: int) -> float:
    """Two-sided p-value of a change [1].

    By sign flips of clusters if the change is a mean over examples, else by t from the delta
    method.
    """
    if is_affine(metric.of_means, num_terms):
        return float(refined_p_values(change.merged(MOST_FLIPPED))[0])
    with np.errstate(all="ignore"):
        statistic = np.abs(change.value) / change.standard_error
        p: float = (2 * students_t.sf(statistic, change.degrees_of_freedom))[0]
    return 1.0 if change.value[0] == 0 else float(p)


def columns_of(found: Estimates, names: Sequence[str]) -> dict[str, Any]:
    """Values with their intervals as columns; what is undefined or not there is None."""
    columns: dict[str, Any] = {}
    for name in names:
        ranged = found.get(name)
        numbers = [None] * 3 if ranged is None else [ranged.value, ranged.low, ranged.high]
        for end, number in zip(("", "_low", "_high"), numbers, strict=True):
            columns[f"{name}{end}"] = defined(number)
    return columns


def defined(number: float | None) -> float | None:
    """None for a number that is not finite."""
    return float(number) if number is not None and np.isfinite(number) else None


def changed_by(metric: Metric, sums: MetricSums, names: Sequence[str]) -> Changed:
    """How a metric changed.

    Args:
        names: [K] of the clusters of the sums.
    """
    there = sums.num > 0
    clusters = _some_clusters(names, there)
    before, after = (
        function_of_means(_means(clusters, sums.num[there], of[there]), metric.of_means)
        for of in (sums.before, sums.after)
    )
    change = combine([1.0, -1.0], [after, before])
    if sums.is_binary and is_affine(metric.of_means, 1):
        return Changed(before, *_of_binary(metric, sums, after, change))
    return Changed(before, _of_clusters(after), _of_clusters(change))


def _of_binary(
    metric: Metric, sums: MetricSums, after: ClusterEstimate, change: ClusterEstimate
) -> tuple[Ranged, Ranged]:
    """Of a share, or a multiple of one, which few examples may decide."""
    slope = float(gradient(metric.of_means, np.zeros(1), np.ones(1))[0])
    base = float(metric.of_means(np.zeros(1)))
    num, there, up, down = (
        np.asarray([of.sum()]) for of in (sums.num, sums.after, sums.up, sums.down)
    )
    if not slope:
        return _of_clusters(after), _of_clusters(change)
    return (
        _scaled(after, slope, base, num, there, None),
        _scaled(change, slope, 0.0, num, up, down),
    )


def _scaled(
    estimate: ClusterEstimate,
    slope: float,
    base: float,
    num: np.ndarray,
    there: np.ndarray,
    back: np.ndarray | None,
) -> Ranged:
    """``base`` + ``slope`` x a share or a net flow."""
    if len(estimate.clusters) < 2:
        return Ranged(estimate)
    unit = ClusterEstimate(
        (estimate.value - base) / slope, estimate.influence / slope, estimate.clusters
    )
    ends = discrete.interval(unit, there, back, num)
    low, high = sorted(base + slope * float(end[0]) for end in ends)
    least, most = sorted((base if back is None else -slope, base + slope))
    sd = np.abs(slope) * discrete.example_sd(there, back, num)
    return Ranged(estimate.of_examples(_EXAMPLES, sd), low, high, (least, most))


def _share(names: Sequence[str], num: np.ndarray, count: np.ndarray) -> Ranged:
    """A share of examples."""
    there = num > 0
    clusters = _some_clusters(names, there)
    share = _means(clusters, num[there], count[there, None])[0]
    return _scaled(share, 1.0, 0.0, num.sum(keepdims=True), count.sum(keepdims=True), None)


def _means(clusters: tuple[Cluster, ...], num: np.ndarray, sums: np.ndarray) -> ClusterEstimate:
    """Means [1, T] over the examples of all clusters."""
    repeated = np.broadcast_to(num[:, None, None], (len(clusters), 1, sums.shape[1]))
    return means_of_sums(sums[:, None, :], repeated, clusters)


def _some_clusters(names: Sequence[str], there: np.ndarray) -> tuple[Cluster, ...]:
    if there.all():
        return clusters_of(tuple(names))
    return clusters_of(tuple(name for name, is_in in zip(names, there, strict=True) if is_in))


@lru_cache(maxsize=256)
def clusters_of(names: tuple[str, ...]) -> tuple[Cluster, ...]:
    """Clusters of one stratum; the same tuple again for the same names.

    A sweep has thousands of estimates over the clusters of a few data sets.
    """
    return tuple(Cluster("", name) for name in names)


def _of_clusters(
    estimate: ClusterEstimate, limits: tuple[float, float] = (-np.inf, np.inf)
) -> Ranged:
    """With its t interval; none where no cluster differs, which shows nothing of others."""
    estimate = estimate if estimate.value.ndim == 1 else estimate[..., 0]
    with np.errstate(all="ignore"):
        low, high = (float(np.clip(end[0], *limits)) for end in estimate.interval())
        is_known = len(estimate.clusters) > 1 and estimate.standard_error[0] > 0
    return Ranged(estimate, low, high, limits) if is_known else Ranged(estimate)
