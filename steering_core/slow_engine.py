"""What ``Engine`` computes, by the slow path: for tasks whose fast path cannot be trusted."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Scores
from steering_core.interventions import Intervention
from steering_core.models import LoadedModel
from steering_core.pooled import PooledStates
from steering_core.protocol import Protocol
from steering_core.reference import (
    reference_norms,
    reference_scores,
    reference_scores_and_kl,
    reference_states,
)
from steering_core.scoring import Measure, padded
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
        scores = padded([self.row_scores(row) for row in rows])
        states_2LND = np.stack([self.row_states(row, layers) for row in rows], axis=2)
        negative_LND, positive_LND = states_2LND
        pooled = PooledStates(
            layers=tuple(layers),
            differences=positive_LND - negative_LND,
            states=states_2LND.astype(np.float32),
            stream_norms=np.stack([self.row_norms(row, layers) for row in rows], axis=1),
            num_positions=np.asarray([row.num_real_positions for row in rows], np.int64),
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
            self.row_measured(row, cell, vectors, fold)
            for row, fold in zip(rows, folds, strict=True)
        ]
        return Scores(
            padded([scores for scores, _ in found]),
            _num_scored(rows),
            np.asarray([kl for _, kl in found]) if "kl" in self.measures else None,
        )

    def row_measured(
        self, row: EncodedExample, cell: Cell, vectors: SteeringVectors, fold: int
    ) -> tuple[np.ndarray, float | None]:
        """``row_scores`` of a steered row, and its mean divergence in nats if it is measured."""
        if "kl" not in self.measures:
            return self.row_scores(row, cell, vectors, fold), None
        return reference_scores_and_kl(self._model, row, self._steering(cell, vectors, fold))

    def row_scores(
        self,
        row: EncodedExample,
        cell: Cell | None = None,
        vectors: SteeringVectors | None = None,
        fold: int = 0,
    ) -> np.ndarray:
        """Mean nats per scored token [C] float64 of one row, steered where a cell is given.

        Args:
            vectors: needed with a cell.
            fold: the row's.
        """
        if cell is None:
            return reference_scores(self._model, row)
        assert vectors is not None, f"{cell} has no vectors"
        return reference_scores(self._model, row, self._steering(cell, vectors, fold))

    def _steering(self, cell: Cell, vectors: SteeringVectors, fold: int) -> Intervention:
        coeff, vector_D = cell.coeff, vectors.for_fold(cell.layer, fold)
        if vectors.unit == "stream":
            # The formula as it is written, and not the multiplier that the engine takes.
            coeff, vector_D = 1.0, _stream_step(coeff, vectors.stream_norms[cell.layer], vector_D)
        return self._protocol.intervention(cell.layer, coeff, vector_D)

    def row_states(self, row: EncodedExample, layers: Sequence[int]) -> np.ndarray:
        """Pooled states [2, L, D] float64 of one row, by ``EncodedExample.sides``."""
        points = [self._protocol.read_at(layer) for layer in layers]
        return reference_states(self._model, row, points)

    def row_norms(self, row: EncodedExample, layers: Sequence[int]) -> np.ndarray:
        """Norms of the stream [L] where layers are steered, summed over a row's real positions."""
        points = [self._protocol.apply_at(layer) for layer in layers]
        return reference_norms(self._model, row, points)


def _stream_step(coeff: float, stream_norm: float, vector_D: np.ndarray) -> np.ndarray:
    """c m v / |v| [D] float32; 0 for a vector of zero."""
    vector_D = vector_D.astype(np.float64)
    norm = np.linalg.norm(vector_D)
    unit_D = vector_D / norm if norm > 0 else vector_D
    step_D: np.ndarray = (coeff * stream_norm * unit_D).astype(np.float32)
    return step_D


def _num_scored(rows: Sequence[EncodedExample]) -> np.ndarray:
    counts = [np.asarray([len(c.scored_ids) for c in row.candidates]) for row in rows]
    return padded(counts, fill=0, dtype=np.int64)
