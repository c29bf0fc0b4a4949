"""Streams of paired states for tests of the fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChunkedPairs:
    """Whole arrays [N, D] as a stream of chunks, each a copy of its own."""

    anti: np.ndarray
    stereotype: np.ndarray
    size: int = 7

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for low in range(0, len(self.anti), self.size):
            rows = slice(low, low + self.size)
            yield self.anti[rows].copy(), self.stereotype[rows].copy()

    def in_float64(self) -> tuple[np.ndarray, np.ndarray]:
        """The whole arrays."""
        return self.anti.astype(np.float64), self.stereotype.astype(np.float64)


def correlated_pairs(
    num_pairs: int = 60, width: int = 5, seed: int = 0, size: int = 7
) -> ChunkedPairs:
    """Pairs that share most of their variation, float32, far from the origin as streams are."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width))
    shared = rng.normal(size=(num_pairs, width)) @ mixing + 10 * rng.normal(size=width)
    # The size of the push varies, so that the first principal direction is not the mean.
    push = rng.normal(size=width) + rng.normal(size=(num_pairs, width)) @ mixing[::-1] / 2
    noise = rng.normal(size=(num_pairs, width)) / 4
    stereotype = (shared + noise).astype(np.float32)
    return ChunkedPairs((shared + push).astype(np.float32), stereotype, size)
