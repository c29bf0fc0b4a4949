"""Tests of means by flipping the signs of whole clusters, one at a time and all together.

If steering does nothing on balance, a cluster's sum is as likely to have come out with the other
sign. So each flip of signs gives what the same data could have shown. The mean is divided by its
clustered standard error in each flip (studentized), which keeps the test right if clusters differ
in size. The sums are not centered first: that imposes the null and holds its level at 30 examples
a group, where centered ones find too much.

``largest`` makes statements about many estimates at a time: it compares each with the largest that
any of them shows in a flip, so that picking the most striking one costs nothing.

Sources: Canay, Romano and Shaikh 2017 (randomization tests under approximate symmetry); Cameron,
Gelbach and Miller 2008 (few clusters); Romano and Wolf 2005 (max-t).

Shapes: B flips, K clusters, E estimates, F estimates of a family.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from steering_core.stats.clusters import LEVEL, ClusterEstimate, correction

MOST_EXACT = 14
"""Clusters up to which every flip of their signs is tried: 16,384 of them."""
NUM_FLIPS = 9_999
_FIRST_FLIPS, _WORTH_MORE = 999, 0.02
"""A refined test starts with so many flips; where its p-value is small, more decide how small."""
_AT_ONCE = 2**22
"""Entries of [B, E] that are held at a time."""
_SAME = 1e-9
"""Two statistics that differ by less than this part are a tie, which counts against the finding."""
_ROUNDING = 1e-12


def signs(num_clusters: int, num_flips: int = NUM_FLIPS, seed: int = 0) -> np.ndarray:
    """Signs [B, K] float64 of each flip; the first flips nothing.

    All of them up to ``MOST_EXACT`` clusters, else random ones, the same for the same seed.
    """
    if num_clusters <= MOST_EXACT:
        return np.asarray(list(product((1.0, -1.0), repeat=num_clusters)))
    drawn = np.random.default_rng(seed).integers(0, 2, (num_flips, num_clusters))
    return np.vstack([np.ones(num_clusters), 2.0 * drawn - 1.0])


def p_values(estimate: ClusterEstimate, signs_BK: np.ndarray) -> np.ndarray:
    """Two-sided p-values [E] of means, each tested alone; 1 where nothing moved, NaN without data.

    Args:
        estimate: of means, see ``ClusterEstimate.total``.
        signs_BK: of ``signs``.
    """
    num_estimates = estimate.value.size
    found = np.empty(num_estimates)
    for columns, statistic_BE in _studentized(estimate, signs_BK, 1):
        found[columns] = (statistic_BE >= statistic_BE[0] * (1 - _SAME)).mean(axis=0)
    return np.where(np.isnan(estimate.value.ravel()), np.nan, found).reshape(estimate.value.shape)


def refined_p_values(estimate: ClusterEstimate) -> np.ndarray:
    """As ``p_values`` with all flips, but most of them only where a few show a small p-value."""
    num = len(estimate.clusters)
    p = p_values(estimate, signs(num, _FIRST_FLIPS))
    again = np.nonzero(p <= _WORTH_MORE)
    if len(again[0]):
        p[again] = p_values(estimate[again], signs(num))
    return p


@dataclass(frozen=True)
class Simultaneous:
    """What can be said of all estimates of a family together.

    Attributes:
        p: [..., F] chance that any of the family would show as much as this one, without an effect.
        low, high: [..., F] intervals that all hold their true values in 95 % of runs.
    """

    p: np.ndarray
    low: np.ndarray
    high: np.ndarray


def simultaneous(
    estimate: ClusterEstimate, signs_BK: np.ndarray, level: float = LEVEL
) -> Simultaneous:
    """Statements about means [..., F] that hold for all F of a family together.

    Args:
        estimate: of means, see ``ClusterEstimate.total``; leading dimensions are other families.
            One that is NaN says nothing, and the others do not pay for it.
    """
    shape = estimate.value.shape
    size = shape[-1]
    p, quantile = np.empty(estimate.value.size), np.empty(estimate.value.size)
    for columns, most_BG, observed_GF in _largest(estimate, signs_BK, size):
        p[columns] = np.concatenate(
            [
                _share_at_least(most_B, observed_F)
                for most_B, observed_F in zip(most_BG.T, observed_GF, strict=True)
            ]
        )
        # The smallest of the flips' largest statistics that 95 % of them do not exceed.
        quantile[columns] = np.repeat(
            np.quantile(most_BG, level, axis=0, method="inverted_cdf"), size
        )
    with np.errstate(invalid="ignore"):  # in most flips nothing varies, and here nothing moved
        half = quantile.reshape(shape) * estimate.standard_error
    p = np.where(np.isnan(estimate.value), np.nan, p.reshape(shape))
    return Simultaneous(p, estimate.value - half, estimate.value + half)


def _share_at_least(most_B: np.ndarray, observed_F: np.ndarray) -> np.ndarray:
    """Share [F] of the flips whose largest statistic is at least as large as the observed one."""
    num_less_F = np.searchsorted(np.sort(most_B), observed_F * (1 - _SAME))
    share_F: np.ndarray = (len(most_B) - num_less_F) / len(most_B)
    return share_F


def _largest(
    estimate: ClusterEstimate, signs_BK: np.ndarray, size: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Columns of G whole families, the largest statistic of each flip [B, G], the observed [G, F].

    Statistics of a family that is too large are computed and forgotten a part at a time.
    """
    if size * len(signs_BK) <= _AT_ONCE:
        for columns, statistic_BE in _studentized(estimate, signs_BK, size):
            of_families_BGF = statistic_BE.reshape(len(statistic_BE), -1, size)
            yield columns, of_families_BGF.max(axis=2), of_families_BGF[0]
        return
    assert estimate.total is not None and estimate.share is not None, "not an estimate of means"
    num_clusters = len(estimate.clusters)
    for first in range(0, estimate.value.size, size):
        family = slice(first, first + size)
        alone = replace(
            estimate,
            value=estimate.value.ravel()[family],
            total=estimate.total.reshape(num_clusters, -1)[:, family],
            share=estimate.share.reshape(num_clusters, -1)[:, family],
        )
        most_B, observed_F = np.zeros(len(signs_BK)), np.empty(size)
        for columns, statistic_BE in _studentized(alone, signs_BK, 1):
            np.maximum(most_B, statistic_BE.max(axis=1), out=most_B)
            observed_F[columns] = statistic_BE[0]
        yield family, most_B[:, None], observed_F[None]


def _studentized(
    estimate: ClusterEstimate, signs_BK: np.ndarray, family: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Absolute studentized statistics [B, E] of each flip, some whole families at a time.

    With the cluster's part u of a mean and its share c of the examples of its stratum, a flip s has
    the stratum means m = sum of s u, the influences s u - c m, and so the variance
    K / (K - 1) (sum of u^2 - 2 m (sum of s u c) + m^2 (sum of c^2)): two matrix products for all
    flips. 0 where nothing moved.
    """
    assert estimate.total is not None and estimate.share is not None, "not an estimate of means"
    num_clusters = len(estimate.clusters)
    total_KE = np.nan_to_num(estimate.total.reshape(num_clusters, -1))
    share_KE = np.nan_to_num(estimate.share.reshape(num_clusters, -1))
    step = family * max(1, _AT_ONCE // (len(signs_BK) * family))
    for first in range(0, total_KE.shape[1], step):
        columns = slice(first, first + step)
        mean_BE = variance_BE = np.zeros(())
        for rows in estimate.rows_by_stratum().values():
            s_BK, u_KE, c_KE = signs_BK[:, rows], total_KE[rows, columns], share_KE[rows, columns]
            m_BE = s_BK @ u_KE
            squares_BE = (
                (u_KE**2).sum(axis=0)
                - 2 * m_BE * (s_BK @ (u_KE * c_KE))
                + m_BE**2 * (c_KE**2).sum(axis=0)
            )
            mean_BE = mean_BE + m_BE
            # What rounding leaves of equal clusters is no variance.
            squares_BE[squares_BE < _ROUNDING * (u_KE**2).sum(axis=0)] = 0.0
            # A stratum of one cluster shows no variance. Flips are a valid test without it, too.
            if len(rows) > 1:
                variance_BE = variance_BE + correction(len(rows)) * squares_BE
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic_BE = np.abs(mean_BE) / np.sqrt(variance_BE)
        yield columns, np.where(np.abs(mean_BE) > 0, statistic_BE, 0.0)
