"""What ``Engine`` computes, by the slow path: for tasks whose fast path cannot be trusted."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Scores
from steering_core.models import LoadedModel
from steering_core.pooled import PooledStates
from steering_core.protocol import Protocol
from steering_core.reference import (
    reference_scores,
    reference_scores_and_kl,
    reference_states,
)
from steering_core.scoring import Measure
from steering_core.vectors import SteeringVectors


class SlowEngine:
    """Scores rows one candidate at a time (``steering_core.reference``).

    Args:
        measures: as ``Engine``'s.
    """

    def __init__(
        self, model: LoadedModel, protocol: Protocol, measures: Collection[Measure] = ()
    ) -> None:
        self._model = model
        self._protocol = protocol
        self.measures = tuple(measures)

    def baseline(
        self, rows: Sequence[EncodedExample], layers: Sequence[int]
    ) -> tuple[Scores, PooledStates]:
        """As ``Engine.baseline``: unsteered scores, and what is pooled of the rows' states."""
        scores = np.stack([self.row_scores(row) for row in rows])
        states_2LND = np.stack([self.row_states(row, layers) for row in rows], axis=2)
        stereotype_LND, anti_LND = states_2LND
        pooled = PooledStates(
            tuple(layers), anti_LND - stereotype_LND, states_2LND.astype(np.float32)
        )
        return Scores(scores, _num_scored(rows)), pooled

    def steered(
        self,
        rows: Sequence[EncodedExample],
        cells: Sequence[Cell],
        vectors: SteeringVectors,
        folds: Sequence[int],
    ) -> list[Scores]:
        """As ``Engine.steered``: scores of the rows under each cell, in the order of ``cells``."""
        return [self._of_cell(rows, cell, vectors, folds) for cell in cells]

    def _of_cell(
        self,
        rows: Sequence[EncodedExample],
        cell: Cell,
        vectors: SteeringVectors,
        folds: Sequence[int],
    ) -> Scores:
        found = [
            self.row_measured(row, cell, vectors.for_fold(cell.layer, fold))
            for row, fold in zip(rows, folds, strict=True)
        ]
        return Scores(
            np.stack([scores for scores, _ in found]),
            _num_scored(rows),
            np.asarray([kl for _, kl in found]) if "kl" in self.measures else None,
        )

    def row_measured(
        self, row: EncodedExample, cell: Cell, vector: np.ndarray
    ) -> tuple[np.ndarray, float | None]:
        """``row_scores`` of a steered row, and its mean divergence in nats if it is measured."""
        if "kl" not in self.measures:
            return self.row_scores(row, cell, vector), None
        intervention = self._protocol.intervention(cell.layer, cell.coeff, vector)
        return reference_scores_and_kl(self._model, row, intervention)

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
        intervention = self._protocol.intervention(cell.layer, cell.coeff, vector)
        return reference_scores(self._model, row, intervention)

    def row_states(self, row: EncodedExample, layers: Sequence[int]) -> np.ndarray:
        """Pooled states [2, L, D] float64 of one row, by ``POOLED_LABELS``."""
        points = [self._protocol.read_at(layer) for layer in layers]
        return reference_states(self._model, row, points)


def _num_scored(rows: Sequence[EncodedExample]) -> np.ndarray:
    return np.asarray([[len(c.scored_ids) for c in row.candidates] for row in rows], np.int64)
