"""Changes in standard deviations over examples without steering, so that scales compare.

For a mean this is Glass's delta. A metric that is a function of several means has no value of one
example. Its standard deviation is that of the examples' influences on it: the standard error that
independent examples would give, times the root of their number. For a mean it is the same.

The standard deviation is itself estimated, which counts if a change is large: its influences enter
those of the quotient.

Source: Glass 1976, "Primary, secondary, and meta-analysis of research" (delta).

Shapes: N examples, K clusters, T terms of a metric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from steering_core.stats.clusters import Cluster, ClusterEstimate, combine, sums_by_cluster
from steering_core.stats.smooth import Function, gradient

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Moments:
    """Sums of a metric's terms by cluster, without steering.

    Attributes:
        center: [T] what was taken off each example's terms first, so that squares stay exact.
        num: [K] examples with all terms.
        first: [K, T] sums of the terms.
        second: [K, T, T] sums of their products.
    """

    center: np.ndarray
    num: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, terms_NT: np.ndarray, cluster_N: np.ndarray, num_clusters: int) -> Moments:
        """The sums of examples; one with a term that is not finite is left out."""
        there_N = np.isfinite(terms_NT).all(axis=1)
        # An example rather than the mean: terms that are all the same then have no variance left
        # from rounding.
        center_T = terms_NT[there_N.argmax()] if there_N.any() else np.zeros(terms_NT.shape[1])
        x_NT = np.where(there_N[:, None], terms_NT - center_T, 0.0)
        products_NTT = x_NT[:, :, None] * x_NT[:, None, :]
        num_K, first_KT, second_KTT = (
            sums_by_cluster(values, cluster_N, num_clusters)
            for values in (there_N.astype(float), x_NT, products_NTT)
        )
        return cls(center_T, num_K, first_KT, second_KTT)

    def of_clusters(self, is_in: np.ndarray) -> Moments:
        """Of some clusters ([K] bool)."""
        return Moments(self.center, self.num[is_in], self.first[is_in], self.second[is_in])


def standard_deviation(
    moments: Moments, of_means: Function, clusters: tuple[Cluster, ...]
) -> ClusterEstimate:
    """The standard deviation [1] of a metric over examples, with the clusters' influences on it.

    NaN if there are fewer than two examples, or if nothing varies.
    """
    undefined = ClusterEstimate(np.full(1, np.nan), np.zeros((len(clusters), 1)), clusters)
    num = moments.num.sum()
    if num < 2:
        return undefined
    mean_T = moments.first.sum(axis=0) / num
    square_T = np.diagonal(moments.second.sum(axis=0)) / num
    at_T = moments.center + mean_T
    error_T = np.sqrt(np.maximum(square_T - mean_T**2, 0.0) / num)
    scale_T = np.maximum(np.abs(at_T), error_T)
    slope_T = gradient(of_means, at_T, np.where(scale_T > 0, scale_T, 1.0))
    # Squares of each example's influence, slope x (terms - means), by cluster.
    middle = slope_T @ mean_T
    squares_K = (
        np.einsum("ktu,t,u->k", moments.second, slope_T, slope_T)
        - 2 * middle * (moments.first @ slope_T)
        + moments.num * middle**2
    )
    variance = squares_K.sum() / num
    if not variance > _ROUNDING * (slope_T**2 @ square_T):
        return undefined
    value = np.sqrt(variance * num / (num - 1))
    influence_K = (squares_K - moments.num * variance) / num / (2 * np.sqrt(variance))
    return ClusterEstimate(np.asarray([value]), influence_K[:, None], clusters)


def standardized(change: ClusterEstimate, deviation: ClusterEstimate) -> ClusterEstimate:
    """A change [1] divided by a standard deviation [1], by the delta method."""
    with np.errstate(all="ignore"):
        value = change.value / deviation.value
        weights = [1 / deviation.value, -value / deviation.value]
        # Counts of examples have no part in it: ``fidelity`` needs an unbiased variance.
        quotient = combine(weights, [change.without_examples(), deviation])
    return replace(quotient, value=value)
