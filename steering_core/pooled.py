"""Pooled states and stream norms of a task's rows: what the unsteered pass leaves for vectors.

Shapes: L layers, N rows, D width; the 2 sides are those of ``EncodedExample.sides``: candidates
with a negative label of the contrast (in StereoSet: the stereotype), then those with a positive
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steering_core.encoding import EncodedExample
from steering_core.vectors import FoldSums, StreamSums, sums_by_fold

NUM_SIDES = 2
"""Of a contrast: negative, positive."""


@dataclass(frozen=True)
class PooledStates:
    """Pooled states of rows at some layers.

    Attributes:
        layers: 1-based, in the order of the arrays.
        differences: [L, N, D] float64, pooled positive - pooled negative states.
        states: [2, L, N, D] float32, both.
        stream_norms: [L, N] float64, norms of the stream where a layer is steered, summed over the
            row's real positions.
        num_positions: [N] int64, of these positions.
    """

    layers: tuple[int, ...]
    differences: np.ndarray
    states: np.ndarray
    stream_norms: np.ndarray
    num_positions: np.ndarray

    @classmethod
    def empty(
        cls, layers: Sequence[int], rows: Sequence[EncodedExample], width: int
    ) -> PooledStates:
        """States that are filled batch by batch."""
        shape = (len(layers), len(rows), width)
        return cls(
            layers=tuple(layers),
            differences=np.zeros(shape),
            states=np.zeros((NUM_SIDES, *shape), np.float32),
            stream_norms=np.zeros(shape[:2]),
            num_positions=np.asarray([row.num_real_positions for row in rows], np.int64),
        )

    def sums(self, folds: Sequence[int] = (), signs: np.ndarray | None = None) -> list[FoldSums]:
        """Float64 sums over examples, ordered by layer, then fold.

        Args:
            folds: [N] fold of each row; all 0 where left out.
            signs: [N] of shuffled labels, where those are to be summed, too.
        """
        num_rows = self.differences.shape[1]
        num_positions = int(self.num_positions.sum())
        streams = [StreamSums(float(total), num_positions) for total in self.stream_norms.sum(1)]
        return sums_by_fold(
            self.layers, self.differences, self.states, folds or [0] * num_rows, signs, streams
        )
