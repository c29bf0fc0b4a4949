"""Dose-response of each example: whether its gap moves with the coefficient, step by step.

The gap is score(anti-stereotype) - score(stereotype). A vector that does what it was made for moves
it further at each larger coefficient, whatever the example. An average that moves can hide that
many examples do not, or go the other way.

Shapes: Q coefficients, N examples, K target terms, E columns of ``DOSE_SUMS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from steering_core.quantities import ANTI, STEREOTYPE
from steering_core.stats import discrete
from steering_core.stats.clusters import Cluster, ClusterEstimate, means_of_sums, weighted_mean

MONOTONE = ("monotone", "monotone_against")
DOSE_SUMS = ("finite", *MONOTONE)
"""Examples whose scores are finite at every coefficient; of these, those whose gap rises with each
step of the coefficient, and those whose gap falls with each."""


def gaps_of(scores_N3: np.ndarray) -> np.ndarray:
    """Gaps [..., N] of scores [..., N, 3] by label; NaN where one of the three is not finite."""
    finite = np.isfinite(scores_N3).all(axis=-1)
    gaps: np.ndarray = np.subtract(
        scores_N3[..., ANTI],
        scores_N3[..., STEREOTYPE],
        where=finite,
        out=np.full(finite.shape, np.nan),
    )
    return gaps


def monotone_examples(coeffs: Sequence[float], gaps_QN: np.ndarray) -> np.ndarray:
    """What each example adds to ``DOSE_SUMS`` [N, E].

    Args:
        coeffs: [Q] different coefficients, in any order; unsteered scores are those at 0.
    """
    finite_N = ~np.isnan(gaps_QN).any(axis=0)
    steps_QN = np.diff(gaps_QN[np.argsort(coeffs)], axis=0)
    rises_N, falls_N = ((sign * steps_QN > 0).all(axis=0) for sign in (1, -1))
    return np.stack([finite_N, finite_N & rises_N, finite_N & falls_N], axis=-1).astype(float)


def monotone_shares(
    sums_of_terms: Mapping[str, tuple[Sequence[Cluster], np.ndarray]], repeats: int
) -> dict[str, tuple[float, float, float]]:
    """Shares of examples by ``MONOTONE`` with their 95 % interval, clustered by target term.

    NaN where no example is finite. Intervals are those of all shares, see ``stats.discrete``.

    Args:
        sums_of_terms: by bias type, its terms and their ``DOSE_SUMS`` [K, E].
        repeats: how often each example is in the sums: once for each layer that is pooled.
    """
    estimates: list[ClusterEstimate] = []
    nums: list[np.ndarray] = []
    for name, (clusters, sums_KE) in sums_of_terms.items():
        num_K1, there_K2 = sums_KE[:, :1], sums_KE[:, 1:]
        plain = means_of_sums(there_K2, np.broadcast_to(num_K1, there_K2.shape), clusters)
        there_2, num_1 = there_K2.sum(axis=0) / repeats, num_K1.sum(axis=0) / repeats
        estimates.append(plain.of_examples(name, discrete.example_sd(there_2, None, num_1)))
        nums.append(num_K1.sum())
    whole = weighted_mean(estimates, nums)
    if len(estimates) == 1:
        low_2, high_2 = discrete.interval(plain, there_2, None, num_1)
    else:
        low_2, high_2 = (np.clip(end, 0.0, 1.0) for end in whole.interval())
    # Pseudo-counts alone would give an interval of nothing.
    low_2, high_2 = (np.where(np.isnan(whole.value), np.nan, end) for end in (low_2, high_2))
    columns = zip(whole.value.tolist(), low_2.tolist(), high_2.tolist(), strict=True)
    return dict(zip(MONOTONE, columns, strict=True))
