"""What ``Engine`` computes, by the slow path: for tasks whose fast path cannot be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Scores
from steering_core.models import LoadedModel
from steering_core.protocol import Protocol
from steering_core.reference import reference_differences, reference_scores
from steering_core.vectors import FoldSums, SteeringVectors, sums_by_fold


class SlowEngine:
    """Scores rows one candidate at a time (``steering_core.reference``)."""

    def __init__(self, model: LoadedModel, protocol: Protocol) -> None:
        self._model = model
        self._protocol = protocol

    def baseline(
        self, rows: Sequence[EncodedExample], layers: Sequence[int], folds: Sequence[int]
    ) -> tuple[Scores, list[FoldSums]]:
        """As ``Engine.baseline``: unsteered scores, and sums by layer, then fold, float64."""
        scores = np.stack([self.row_scores(row) for row in rows])
        differences_NLD = np.stack([self.row_differences(row, layers) for row in rows])
        sums = sums_by_fold(layers, differences_NLD.swapaxes(0, 1), folds)
        return Scores(scores, _num_scored(rows)), sums

    def steered(
        self,
        rows: Sequence[EncodedExample],
        cells: Sequence[Cell],
        vectors: SteeringVectors,
        folds: Sequence[int],
    ) -> list[Scores]:
        """As ``Engine.steered``: scores of the rows under each cell, in the order of ``cells``."""
        return [
            Scores(
                np.stack(
                    [
                        self.row_scores(row, cell, vectors.for_fold(cell.layer, fold))
                        for row, fold in zip(rows, folds, strict=True)
                    ]
                ),
                _num_scored(rows),
            )
            for cell in cells
        ]

    def row_scores(
        self, row: EncodedExample, cell: Cell | None = None, vector: np.ndarray | None = None
    ) -> np.ndarray:
        """Mean nats per scored token [3] float64 of one row, steered where a cell is given.

        Args:
            vector: [D] float32; needed with a cell.
        """
        if cell is None:
            return reference_scores(self._model, row)
        assert vector is not None, f"{cell} has no vector"
        point = self._protocol.apply_at(cell.layer)
        return reference_scores(self._model, row, (point, vector, cell.coeff))

    def row_differences(self, row: EncodedExample, layers: Sequence[int]) -> np.ndarray:
        """Pooled differences [L, D] float64 of one row."""
        points = [self._protocol.read_at(layer) for layer in layers]
        return reference_differences(self._model, row, points)


def _num_scored(rows: Sequence[EncodedExample]) -> np.ndarray:
    return np.asarray([[len(c.scored_ids) for c in row.candidates] for row in rows], np.int64)
