"""How sure an estimate is: paired bootstrap, McNemar's test, Benjamini-Hochberg.

Shapes: B resamples, N examples or terms.
"""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.stats import binom

NUM_RESAMPLES = 2000
LEVEL = 0.95


def resample_counts(num: int, seed: str, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """How often each of N units is in each resample, [B, N] float64; the same for the same seed.

    Estimates that are made with the same counts are paired: differences between cells of a group
    keep what the examples have in common. Source: Efron & Tibshirani 1993, chapter 6.
    """
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    rng = np.random.default_rng(number)
    return rng.multinomial(num, np.full(num, 1 / num), num_resamples).astype(np.float64)


def interval(resampled_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high) over the first dimension [B, ...], NaN left out.

    NaN where no resample has a value.
    """
    tail = (1 - LEVEL) / 2
    if np.isnan(resampled_B).any():
        defined = ~np.isnan(resampled_B).all(axis=0)
        bounds = np.full((2, *resampled_B.shape[1:]), np.nan)
        if defined.any():
            some = resampled_B[:, defined]
            bounds[:, defined] = np.nanquantile(some, [tail, 1 - tail], axis=0)
        return bounds[0], bounds[1]
    low, high = np.quantile(resampled_B, [tail, 1 - tail], axis=0)
    return low, high


def mcnemar(there_N: np.ndarray, back_N: np.ndarray) -> np.ndarray:
    """Exact two-sided p-values [N] of McNemar's test: numbers of moves there and back.

    Whether one way is as likely as the other; 1 where nothing moved. Source: McNemar 1947, with the
    binomial distribution in place of its normal approximation.
    """
    few = np.minimum(there_N, back_N)
    p_N: np.ndarray = np.minimum(1.0, 2.0 * binom.cdf(few, there_N + back_N, 0.5))
    return p_N


def benjamini_hochberg(p_N: np.ndarray) -> np.ndarray:
    """Adjusted p-values [N]: rejecting those up to q keeps the false discovery rate at q.

    NaN stays NaN and is no test. Source: Benjamini & Hochberg 1995.
    """
    adjusted_N = np.full(len(p_N), np.nan)
    tested = np.flatnonzero(~np.isnan(p_N))
    order = tested[np.argsort(p_N[tested])[::-1]]
    ranks = np.arange(len(order), 0, -1)
    adjusted_N[order] = np.minimum.accumulate(np.minimum(1.0, p_N[order] * len(order) / ranks))
    return adjusted_N
