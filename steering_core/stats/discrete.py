"""Intervals of shares and of net flows, which a few rare examples decide.

If 2 % of 78 examples move, the clusters that they fall into are chance, and the clustered interval
alone covers the truth in 74 % of runs. So it is widened to hold the interval of independent
examples with pseudo-counts, and pooled estimates take the larger of the two standard errors
(``ClusterEstimate.standard_error``).

Sources: Agresti and Coull 1998 (shares); Agresti and Min 2005 (paired differences of shares).

Shapes: E estimates.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from steering_core.stats.clusters import LEVEL, ClusterEstimate


def example_sd(
    num_there_E: np.ndarray, num_back_E: np.ndarray | None, num_E: np.ndarray | float
) -> np.ndarray:
    """Standard error [E] of a share or a net flow, if examples were independent.

    Args:
        num_there_E, num_back_E: examples that moved one way and back; the second is None for a
            share, whose first is its number of examples.
        num_E: all examples.
    """
    return _center_and_sd(num_there_E, num_back_E, num_E)[1]


def interval(
    estimate: ClusterEstimate,
    num_there_E: np.ndarray,
    num_back_E: np.ndarray | None,
    num_E: np.ndarray,
    level: float = LEVEL,
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends [E]: the union of the clustered interval and the one with pseudo-counts.

    Args: as ``example_sd``; the estimate is of one stratum.
    """
    low, high = estimate.without_examples().interval(level)
    center, sd = _center_and_sd(num_there_E, num_back_E, num_E)
    half = norm.ppf(0.5 + level / 2) * sd
    least = 0.0 if num_back_E is None else -1.0
    return (
        np.maximum(least, np.fmin(low, center - half)),
        np.minimum(1.0, np.fmax(high, center + half)),
    )


def _center_and_sd(
    there: np.ndarray, back: np.ndarray | None, num: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    if back is None:  # two successes and two failures, about
        z_squared = norm.ppf(0.5 + LEVEL / 2) ** 2
        num = num + z_squared
        share = (there + z_squared / 2) / num
        return share, np.sqrt(share * (1 - share) / num)
    there, back, num = there + 1, back + 1, num + 2
    net = (there - back) / num
    return net, np.sqrt((there + back) / num - net**2) / np.sqrt(num)
