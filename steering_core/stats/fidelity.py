"""How much of what steering moves is what it was meant to move.

All changes are in standard deviations over examples without steering (``standardized``).
``intended`` is the change of the target in the direction that is meant. Every measured data set
adds the mean square of its metrics' changes to the square of ``unintended``:

    unintended^2 = sum over data sets of the mean over its metrics of (change^2 - standard error^2)

and 0 if that is negative. A change that is 0 has the square of its standard error as its expected
square, so the difference is right on average, and noise does not count as a side effect.
``fidelity`` is intended / (|intended| + unintended), between -1 and 1.

Squares are added, and one root is taken at the end. Roots that are added up would not cancel where
noise is all that moves: with ten data sets of which none moves, 95 % intervals of such a sum hold
the truth in 14 % of runs (``python -m tests.statistics.side_effects``).

Intervals: normal draws with the covariance of the changes, which is what multipliers of the
clusters' influences give. A draw adds noise of its own to that of the estimate, so the standard
errors are subtracted twice. The spread of few clusters is widened as Student's t is.

Sources: Cameron, Gelbach and Miller 2008 (few clusters); Kline and Santos 2012, "A score based
approach to wild bootstrap inference" (multipliers of influences).

Shapes: D draws, E measured changes; the first of them is the target's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as students_t

from steering_core.stats.clusters import LEVEL, ClusterEstimate, correction, side_by_side

NUM_DRAWS = 2_000


@dataclass(frozen=True)
class Ends:
    """A number with its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fidelity:
    """What a steering moved.

    Attributes:
        num_measures: changes that ``unintended`` is made of.
    """

    intended: Ends
    unintended: Ends
    fidelity: Ends
    num_measures: int


@dataclass(frozen=True)
class Changes:
    """Standardized changes of one steering.

    Attributes:
        value: [E].
        covariance: [E, E]; unbiased, by clusters.
        widening: [E] quantile of Student's t over that of the normal distribution.
    """

    value: np.ndarray
    covariance: np.ndarray
    widening: np.ndarray

    @classmethod
    def of(cls, changes: Sequence[ClusterEstimate]) -> Changes:
        """The changes of estimates [1], each with its own clusters."""
        together = side_by_side(changes)
        num_clusters_E = np.asarray([len(change.clusters) for change in changes])
        influence_KE = together.influence * np.sqrt([correction(num) for num in num_clusters_E])
        tail = 0.5 + LEVEL / 2
        with np.errstate(all="ignore"):
            widening_E = students_t.ppf(tail, num_clusters_E - 1) / norm.ppf(tail)
        return cls(together.value, influence_KE.T @ influence_KE, widening_E)

    @property
    def variance(self) -> np.ndarray:
        """[E]."""
        variance_E: np.ndarray = np.diagonal(self.covariance)
        return variance_E

    def draws(self, num: int, seed: int) -> np.ndarray:
        """[num, E] changes as other clusters might have given them, around what was found."""
        spread_EE = self.covariance * np.outer(self.widening, self.widening)
        eigenvalue_E, vector_EE = np.linalg.eigh(spread_EE)
        root_EE = vector_EE * np.sqrt(np.maximum(eigenvalue_E, 0.0))
        normal_DE = np.random.default_rng(seed).standard_normal((num, len(self.value)))
        drawn_DE: np.ndarray = self.value + normal_DE @ root_EE.T
        return drawn_DE

    def __getitem__(self, index: np.ndarray) -> Changes:
        """Some of them."""
        at = np.ix_(index, index)
        return Changes(self.value[index], self.covariance[at], self.widening[index])


def fidelity(changes: Changes, units: Sequence[object], sign: float, *, seed: int = 0) -> Fidelity:
    """What a steering moved, meant and not meant, with intervals.

    Args:
        changes: the target's first. Others without a value or a standard error are left out.
        units: [E - 1] the data set of each other change.
        sign: of the direction that is meant: 1 or -1.
    """
    has_variance_E = np.isfinite(changes.value) & np.isfinite(changes.variance)
    used = np.flatnonzero(has_variance_E[1:])
    weight_U = _weights([units[int(at)] for at in used])
    intended = float(sign * changes.value[0])
    others = changes[1 + used]
    unintended = float(_length(others.value, others.variance, weight_U)) if len(used) else np.nan
    columns = np.concatenate([[0] if has_variance_E[0] else [], 1 + used]).astype(int)
    drawn_DE = changes[columns].draws(NUM_DRAWS, seed)
    nothing_D = np.full(NUM_DRAWS, np.nan)
    intended_D = sign * drawn_DE[:, 0] if has_variance_E[0] else nothing_D
    unintended_D = nothing_D
    if len(used):
        noise_U = others.variance * (1 + others.widening**2)
        unintended_D = _length(drawn_DE[:, -len(used) :], noise_U, weight_U)
    return Fidelity(
        Ends(intended, *_interval(intended_D)),
        Ends(unintended, *_interval(unintended_D)),
        Ends(
            float(_fidelity(intended, unintended)),
            *_interval(_fidelity(intended_D, unintended_D)),
        ),
        num_measures=len(used),
    )


def pareto_front(intended: np.ndarray, unintended: np.ndarray) -> np.ndarray:
    """Whether no other point has as much intended and as little unintended, and more of one.

    Points that do not go where they are meant to are not on the front, nor are those with a NaN.

    Args:
        intended, unintended: [n].

    Returns:
        [n] bool.
    """
    there = np.isfinite(unintended) & (intended > 0)
    more, less = intended[there], unintended[there]
    as_good = (more[:, None] >= more) & (less[:, None] <= less)
    is_better = (more[:, None] > more) | (less[:, None] < less)
    is_best = np.zeros(len(intended), bool)
    is_best[there] = ~(as_good & is_better).any(axis=0)
    return is_best


def _weights(units: Sequence[object]) -> np.ndarray:
    """Each data set counts once, however many metrics it has."""
    return np.asarray([1 / units.count(unit) for unit in units])


def _length(change: np.ndarray, noise_U: np.ndarray, weight_U: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.sqrt(np.maximum((change**2 - noise_U) @ weight_U, 0.0))
    return length


def _fidelity(intended: np.ndarray | float, unintended: np.ndarray | float) -> np.ndarray:
    """0 of nothing at all."""
    whole = np.abs(intended) + unintended
    share: np.ndarray = np.asarray(intended / np.where(whole == 0, 1.0, whole))
    return share


def _interval(drawn_D: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn_D, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)
