"""Paired states for tests of the fits."""

from __future__ import annotations

import numpy as np

from steering_core.pairs import Pairs


def paired(anti: np.ndarray, stereotype: np.ndarray, num_folds: int = 1) -> Pairs:
    """Pairs of two arrays [N, D], with folds 0, 1, ..., 0, 1, ..."""
    return Pairs(anti, stereotype, np.arange(len(anti)) % num_folds)


def in_float64(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Anti-stereotype and stereotype states."""
    return pairs.anti.astype(np.float64), pairs.stereotype.astype(np.float64)


def correlated_pairs(
    num_pairs: int = 60, width: int = 5, seed: int = 0, num_folds: int = 1
) -> Pairs:
    """Pairs that share most of their variation, float32, far from the origin as streams are."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width))
    shared = rng.normal(size=(num_pairs, width)) @ mixing + 10 * rng.normal(size=width)
    # The size of the push varies, so that the first principal direction is not the mean.
    push = rng.normal(size=width) + rng.normal(size=(num_pairs, width)) @ mixing[::-1] / 2
    noise = rng.normal(size=(num_pairs, width)) / 4
    anti, stereotype = (x.astype(np.float32) for x in (shared + push, shared + noise))
    return paired(anti, stereotype, num_folds)
