"""Estimates that carry the influence of each cluster of examples on them.

Examples about one target term move together, so a bootstrap over examples makes intervals that are
too narrow. Every estimate here is a smooth function of sums over examples. Its value is kept with
one number per cluster: the influence, which is the derivative of the estimate times the cluster's
deviation from its expectation. Standard errors, pooling, macro averages and paired differences all
follow from these numbers, and no example is ever drawn again.

Source: Cameron and Miller 2015, A Practitioner's Guide to Cluster-Robust Inference.

Shapes: N examples, K clusters, E estimates (any number of dimensions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as students_t

LEVEL = 0.95


class Cluster(NamedTuple):
    """A cluster, and the stratum that it was drawn from: a bias type of StereoSet, for instance.

    Clusters with the same name in two strata are two clusters.
    """

    stratum: str
    name: str


@dataclass(frozen=True)
class ClusterEstimate:
    """Values of estimates, and the influence of each cluster on them.

    Attributes:
        value: [E] float64; NaN where undefined.
        influence: [K, E] float64; sums to 0 over the clusters of a stratum.
        clusters: [K], none twice.
        total: [K, E], only of means: what each cluster adds to the value. Sums to ``value``.
        share: [K, E], only of means: the part of its stratum's weight that a cluster has. Sums to
            1 over the clusters of a stratum.
        example_sd: by name of a set of examples, the standard error [E] that the estimate would
            have if examples were independent, with pseudo-counts; see ``discrete``. Empty for
            estimates that are not counts.
    """

    value: np.ndarray
    influence: np.ndarray
    clusters: tuple[Cluster, ...]
    total: np.ndarray | None = None
    share: np.ndarray | None = None
    example_sd: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def standard_error(self) -> np.ndarray:
        """[E]; NaN where a stratum has a single cluster."""
        clustered = sum(self._variances().values())
        # Choices that hardly ever change leave clusters that happen to agree: what independent
        # examples would give is then the better guess, and never too small a one.
        independent = sum(sd**2 for sd in self.example_sd.values())
        error: np.ndarray = np.sqrt(np.maximum(clustered, independent))
        return error

    @property
    def degrees_of_freedom(self) -> np.ndarray:
        """[E], by Satterthwaite's formula over strata; K - 1 where there is one stratum.

        Where no cluster has an influence, all strata count in full.
        """
        variances = self._variances()
        num = {stratum: len(rows) for stratum, rows in self.rows_by_stratum().items()}
        most = float(sum(n - 1 for n in num.values()))
        whole = np.asarray(sum(variances.values()))
        parts = np.asarray(sum(v**2 / max(1, num[s] - 1) for s, v in variances.items()))
        degrees: np.ndarray = np.divide(
            whole**2, parts, where=parts > 0, out=np.full(whole.shape, most)
        )
        return degrees

    def interval(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Low and high ends [E] of the t interval; NaN where value or error is undefined."""
        half = students_t.ppf(0.5 + level / 2, self.degrees_of_freedom) * self.standard_error
        return self.value - half, self.value + half

    def __getitem__(self, index: Any) -> ClusterEstimate:
        """Some of the estimates, by an index into ``value``."""
        at = (slice(None), *(index if isinstance(index, tuple) else (index,)))
        return ClusterEstimate(
            self.value[index],
            self.influence[at],
            self.clusters,
            None if self.total is None else self.total[at],
            None if self.share is None else self.share[at],
            {name: sd[index] for name, sd in self.example_sd.items()},
        )

    def of_examples(self, name: str, sd: np.ndarray) -> ClusterEstimate:
        """The same, with the standard error [E] that independent examples would give."""
        return replace(self, example_sd={name: sd})

    def without_examples(self) -> ClusterEstimate:
        """The same, from its clusters alone."""
        return replace(self, example_sd={})

    def where(self, there: np.ndarray) -> ClusterEstimate:
        """The same, 0 and without influence where ``there`` (broadcast to [E]) is false."""

        def kept(array: np.ndarray) -> np.ndarray:
            return np.where(there, array, 0.0)

        return ClusterEstimate(
            kept(self.value),
            kept(self.influence),
            self.clusters,
            None if self.total is None else kept(self.total),
            None if self.share is None else kept(self.share),
            {name: kept(sd) for name, sd in self.example_sd.items()},
        )

    def merged(self, most: int) -> ClusterEstimate:
        """The same from at most ``most`` clusters of one stratum, each several of these together.

        Clusters that are put together at random are independent, as they were. So tests hold their
        level, and those that flip many clusters take less memory.
        """
        num = len(self.clusters)
        if num <= most:
            return self
        group_K = _merged_rows(num, most)

        def added(array: np.ndarray) -> np.ndarray:
            return sums_by_cluster(array, group_K, most)

        return replace(
            self,
            influence=added(self.influence),
            clusters=_merged_clusters(self.clusters, most),
            total=None if self.total is None else added(self.total),
            share=None if self.share is None else added(self.share),
        )

    def rows_by_stratum(self) -> dict[str, list[int]]:
        """Indices of the clusters of each stratum."""
        return _rows_by_stratum(self.clusters)

    def _variances(self) -> dict[str, np.ndarray]:
        """By stratum, K / (K - 1) times the sum of squared influences [E]."""
        return {
            stratum: (self.influence[rows] ** 2).sum(axis=0) * correction(len(rows))
            for stratum, rows in self.rows_by_stratum().items()
        }


@lru_cache(maxsize=64)
def _rows_by_stratum(clusters: tuple[Cluster, ...]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for index, cluster in enumerate(clusters):
        rows.setdefault(cluster.stratum, []).append(index)
    return rows


def correction(num_clusters: int) -> float:
    """K / (K - 1), which makes a sum of squared influences an unbiased variance; NaN for one."""
    return num_clusters / (num_clusters - 1) if num_clusters > 1 else np.nan


def means(
    values_NE: np.ndarray, cluster_N: np.ndarray, clusters: Sequence[Cluster]
) -> ClusterEstimate:
    """Means over the examples of one stratum, each with the same weight.

    Args:
        values_NE: [N, E]; an entry that is NaN is left out of its mean.
        cluster_N: [N] index into ``clusters``; each cluster must have an example.
    """
    there_NE = ~np.isnan(values_NE)
    return means_of_sums(
        sums_by_cluster(np.where(there_NE, values_NE, 0.0), cluster_N, len(clusters)),
        sums_by_cluster(there_NE.astype(float), cluster_N, len(clusters)),
        clusters,
    )


def means_of_sums(
    sum_KE: np.ndarray, num_KE: np.ndarray, clusters: Sequence[Cluster]
) -> ClusterEstimate:
    """As ``means``, from each cluster's sums [K, E] and numbers of examples [K, E]."""
    num_E = num_KE.sum(axis=0)
    whole_E = np.where(num_E > 0, num_E, np.nan)
    total_KE, share_KE = sum_KE / whole_E, num_KE / whole_E
    value_E = total_KE.sum(axis=0)
    return ClusterEstimate(
        value_E, total_KE - share_KE * value_E, tuple(clusters), total_KE, share_KE
    )


def means_over_clusters(values_KE: np.ndarray, clusters: Sequence[Cluster]) -> ClusterEstimate:
    """Means over the clusters of one stratum, each with the same weight, as StereoSet's metrics.

    Args:
        values_KE: [K, E] each cluster's own value; NaN where it has none.
    """
    there_KE = ~np.isnan(values_KE)
    return means_of_sums(np.where(there_KE, values_KE, 0.0), there_KE.astype(float), clusters)


def combine(
    weights: Sequence[np.ndarray | float], parts: Sequence[ClusterEstimate]
) -> ClusterEstimate:
    """The weighted sum of estimates.

    Clusters that several parts have are one cluster, whose influences add. So this one function
    pools groups (weights: shares of the examples), averages over layers or bias types (equal
    weights), and makes paired differences (1 and -1).

    Args:
        weights: one number for each part, or [E] numbers.
    """
    clusters, rows_of_parts = _united(parts)
    value = np.asarray(sum(w * part.value for w, part in zip(weights, parts, strict=True)))
    are_means = all(part.total is not None for part in parts)
    influence, total, share = (np.zeros((len(clusters), *value.shape)) for _ in range(3))
    example_sd: dict[str, np.ndarray] = {}
    for w, part, rows in zip(weights, parts, rows_of_parts, strict=True):
        influence[rows] += w * part.influence
        if are_means:
            total[rows] += w * part.total  # type: ignore[operator]
            share[rows] += np.abs(w) * part.share
        for name, sd in part.example_sd.items():
            # The same examples at another layer: as if both moved together, which is the worst.
            example_sd[name] = example_sd.get(name, 0.0) + np.abs(w) * sd
    combined = ClusterEstimate(value, influence, clusters, example_sd=example_sd)
    if not are_means:
        return combined
    for of_stratum in combined.rows_by_stratum().values():
        whole = share[of_stratum].sum(axis=0)
        share[of_stratum] /= np.where(whole > 0, whole, np.nan)
    return ClusterEstimate(value, influence, clusters, total, share, example_sd)


def weighted_mean(
    parts: Sequence[ClusterEstimate], weights: Sequence[np.ndarray]
) -> ClusterEstimate:
    """Mean of the parts [C, ...], each with a weight [C]; those of no weight are left out."""
    whole_C = sum(weights)
    whole_C = np.where(whole_C > 0, whole_C, np.nan)
    if len(parts) == 1:
        return parts[0]
    shares = [
        (weight_C / whole_C).reshape(weight_C.shape + (1,) * (part.value.ndim - 1))
        for weight_C, part in zip(weights, parts, strict=True)
    ]
    return combine(
        shares, [part.where(share > 0) for share, part in zip(shares, parts, strict=True)]
    )


def side_by_side(parts: Sequence[ClusterEstimate], most: int | None = None) -> ClusterEstimate:
    """Several estimates as one, along the last dimension.

    Clusters that several parts have are one cluster; on the others a part has no influence.

    Args:
        most: clusters are put together as ``ClusterEstimate.merged`` does. The clusters of all
            parts, which may be many times as many, are never held.
    """
    clusters, rows_of_parts = _united(parts)
    if most is not None and len(clusters) > most:
        group_K = _merged_rows(len(clusters), most)
        rows_of_parts = [group_K[rows] for rows in rows_of_parts]
        clusters = _merged_clusters(clusters, most)

    def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
        shape = arrays[0].shape[1:-1], sum(array.shape[-1] for array in arrays)
        of_all = np.zeros((len(clusters), *shape[0], shape[1]))
        first = 0
        for rows, array in zip(rows_of_parts, arrays, strict=True):
            np.add.at(of_all[..., first : first + array.shape[-1]], rows, array)
            first += array.shape[-1]
        return of_all

    totals = [part.total for part in parts if part.total is not None]
    shares = [part.share for part in parts if part.share is not None]
    are_means = len(totals) == len(shares) == len(parts)
    names = dict.fromkeys(name for part in parts for name in part.example_sd)
    return ClusterEstimate(
        np.concatenate([part.value for part in parts], axis=-1),
        joined([part.influence for part in parts]),
        clusters,
        joined(totals) if are_means else None,
        joined(shares) if are_means else None,
        {
            name: np.concatenate(
                [part.example_sd.get(name, np.zeros(part.value.shape)) for part in parts], axis=-1
            )
            for name in names
        },
    )


def _merged_rows(num_clusters: int, most: int) -> np.ndarray:
    """[K] which of ``most`` clusters each becomes a part of, at random."""
    return np.random.default_rng(0).permutation(num_clusters) % most


def _merged_clusters(clusters: Sequence[Cluster], most: int) -> tuple[Cluster, ...]:
    strata = {cluster.stratum for cluster in clusters}
    assert len(strata) == 1, "clusters of several strata"
    return tuple(Cluster(clusters[0].stratum, str(n)) for n in range(most))


def _united(
    parts: Sequence[ClusterEstimate],
) -> tuple[tuple[Cluster, ...], list[np.ndarray]]:
    """The clusters of all parts, each once, and which of them are those of each part."""
    # Thousands of cells have the clusters of a few data sets: the same tuple each time.
    tuples = {id(part.clusters): part.clusters for part in parts}
    if len(tuples) == 1:
        clusters = parts[0].clusters
    else:
        clusters = tuple(dict.fromkeys(cluster for names in tuples.values() for cluster in names))
    row = {cluster: index for index, cluster in enumerate(clusters)}
    rows = {
        key: np.asarray([row[cluster] for cluster in names], int) for key, names in tuples.items()
    }
    return clusters, [rows[id(part.clusters)] for part in parts]


def log_ratio(above: ClusterEstimate, below: ClusterEstimate) -> ClusterEstimate:
    """Logarithm of the ratio of two estimates over the same clusters, by the delta method.

    NaN where either is not positive: a ratio of 0 has no logarithm.
    """
    assert above.clusters == below.clusters, "not over the same clusters"
    defined = (above.value > 0) & (below.value > 0)
    over, under = (np.where(defined, part.value, np.nan) for part in (above, below))
    influence = above.influence / over - below.influence / under
    return ClusterEstimate(np.log(over / under), influence, above.clusters)


def intra_class_correlation(
    values_NE: np.ndarray, cluster_N: np.ndarray, stratum_K: Sequence[str]
) -> np.ndarray:
    """Share [E] of the variance that lies between clusters of a stratum, by analysis of variance.

    0 or less: examples of a cluster are no more alike than others. NaN where no cluster has two
    examples or no stratum has two clusters. Rows with a NaN are left out.

    Args:
        stratum_K: stratum of each cluster.
    """
    num_K = len(stratum_K)
    there_NE = ~np.isnan(values_NE)
    num_KE = sums_by_cluster(there_NE.astype(float), cluster_N, num_K)
    filled_NE = np.where(there_NE, values_NE, 0.0)
    return icc_of_sums(
        num_KE,
        sums_by_cluster(filled_NE, cluster_N, num_K),
        sums_by_cluster(filled_NE**2, cluster_N, num_K),
        stratum_K,
    )


def icc_of_sums(
    num_KE: np.ndarray, sum_KE: np.ndarray, squares_KE: np.ndarray, stratum_K: Sequence[str]
) -> np.ndarray:
    """As ``intra_class_correlation``, from numbers, sums and sums of squares by cluster [K, E]."""
    strata = np.asarray(stratum_K)
    between = within = size = np.zeros(num_KE.shape[1:])
    num_between = num_within = np.zeros(num_KE.shape[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        for stratum in dict.fromkeys(stratum_K):
            n, s, q = (x[strata == stratum] for x in (num_KE, sum_KE, squares_KE))
            there = n > 0
            of_clusters = np.where(there, s**2 / n, 0.0).sum(axis=0)
            whole = n.sum(axis=0)
            between = between + of_clusters - np.where(whole > 0, s.sum(axis=0) ** 2 / whole, 0.0)
            within = within + q.sum(axis=0) - of_clusters
            num_between = num_between + there.sum(axis=0) - (whole > 0)
            num_within = num_within + whole - there.sum(axis=0)
            size = size + whole - np.where(whole > 0, (n**2).sum(axis=0) / whole, 0.0)
        mean_between, mean_within = between / num_between, within / num_within
        typical = size / num_between
        icc: np.ndarray = (mean_between - mean_within) / (
            mean_between + (typical - 1) * mean_within
        )
    return np.where(np.isfinite(icc), icc, np.nan)


def sums_by_cluster(values_NE: np.ndarray, cluster_N: np.ndarray, num: int) -> np.ndarray:
    """Sums [K, E] over the examples of each of ``num`` clusters."""
    sums_KE = np.zeros((num, *values_NE.shape[1:]))
    np.add.at(sums_KE, cluster_N, values_NE)
    return sums_KE
