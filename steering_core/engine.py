"""The fast path: one unsteered trunk for a batch, a fork of it for each steered cell.

Shapes: N rows of a task, R sequences and S positions of a batch, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steering_core.encoding import EncodedExample
from steering_core.interventions import intervene
from steering_core.models import LoadedModel
from steering_core.packing import NUM_CANDIDATES, Batch, batches, lay_out
from steering_core.pooled import PooledStates
from steering_core.protocol import Protocol
from steering_core.scoring import mean_scores, scored_log_probs
from steering_core.trunk import fork, run_trunk
from steering_core.vectors import SteeringVectors


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One point of the steered grid: a 1-based layer and a coefficient."""

    layer: int
    coeff: float


@dataclass(frozen=True)
class Scores:
    """Mean nats per scored token [N, 3] float64 and counts [N, 3] int64, in file order."""

    scores: np.ndarray
    num_scored: np.ndarray

    @classmethod
    def empty(cls, num_rows: int) -> Scores:
        """Scores that are filled batch by batch."""
        shape = (num_rows, NUM_CANDIDATES)
        return cls(np.full(shape, np.nan), np.zeros(shape, np.int64))


class Engine:
    """Scores the rows of a task, unsteered and steered, on one model replica.

    Args:
        is_packed: whether rows run as trees (see ``trunk.can_pack``).
    """

    def __init__(self, model: LoadedModel, protocol: Protocol, *, is_packed: bool = True) -> None:
        self._model = model
        self._protocol = protocol
        self._is_packed = is_packed
        self._most_positions = sys.maxsize

    def baseline(
        self,
        rows: Sequence[EncodedExample],
        tokens_per_batch: int,
        layers: Sequence[int] = (),
        *,
        with_states: bool = False,
    ) -> tuple[Scores, PooledStates]:
        """Unsteered scores and, at each layer, what is pooled of the rows' states.

        Args:
            rows: encoded examples of a task.
            tokens_per_batch: positions of one forward pass, padding included.
            layers: 1-based layers whose states are pooled.
            with_states: whether to keep both pooled states beside their difference.

        Returns:
            Scores and pooled states, in the order of ``rows``.
        """
        read = {layer: self._protocol.read_at(layer).stream for layer in layers}
        below_last = self._model.layout.num_blocks - 1
        scores = Scores.empty(len(rows))
        width = self._model.layout.config.hidden_size
        pooled = PooledStates.empty(layers, len(rows), width, with_states=with_states)

        def run(batch: Batch) -> None:
            trunk = run_trunk(self._model, batch, {below_last, *read.values()})
            self._score(fork(self._model, trunk, batch, below_last), batch, scores)
            for index, layer in enumerate(layers):
                _pool(trunk.streams[read[layer]], batch, pooled, index)

        self._for_each_batch(run, rows, tokens_per_batch)
        return scores, pooled

    def steered(
        self,
        rows: Sequence[EncodedExample],
        tokens_per_batch: int,
        cells: Sequence[Cell],
        vectors: SteeringVectors,
        folds: Sequence[int] = (),
    ) -> list[Scores]:
        """Scores of the rows under each cell, in the order of ``cells``.

        The trunk runs once for a batch; each cell runs the blocks above its hook point only.
        """
        apply = {cell.layer: self._protocol.apply_at(cell.layer).stream for cell in cells}
        below_last = self._model.layout.num_blocks - 1
        keep = {min(stream, below_last) for stream in apply.values()}
        fold_N = np.asarray(folds or [0] * len(rows))
        scores = [Scores.empty(len(rows)) for _ in cells]

        def run(batch: Batch) -> None:
            trunk = run_trunk(self._model, batch, keep)
            fold_R = fold_N[batch.rows[batch.sequence_row]]
            for cell, into in zip(cells, scores, strict=True):
                steer = self._steering(cell, self._vectors(vectors, cell.layer, fold_R), batch)
                self._score(fork(self._model, trunk, batch, apply[cell.layer], steer), batch, into)

        self._for_each_batch(run, rows, tokens_per_batch)
        return scores

    def _for_each_batch(
        self, run: Callable[[Batch], None], rows: Sequence[EncodedExample], tokens_per_batch: int
    ) -> None:
        """Run every batch of the rows, in halves where the device's memory does not hold it.

        ``run`` stores what it finds by row, so that a batch may run again in part. What did not fit
        once is not tried again by this engine. Scores of a halved batch differ from those of the
        whole one by rounding alone.

        Raises:
            torch.OutOfMemoryError: a single row does not fit.
        """
        with torch.inference_mode():
            for batch in batches(rows, tokens_per_batch, is_packed=self._is_packed):
                self._in_parts(run, rows, batch)

    def _in_parts(
        self, run: Callable[[Batch], None], rows: Sequence[EncodedExample], batch: Batch
    ) -> None:
        is_alone = len(batch.rows) == 1
        if is_alone or batch.input_ids.size <= self._most_positions:
            try:
                run(batch)
                return
            except torch.OutOfMemoryError:
                if is_alone:
                    raise
                self._most_positions = batch.input_ids.size // 2
        # Behind the handler: the error held on to the tensors of the batch that failed.
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        for half in np.array_split(batch.rows, 2):
            self._in_parts(run, rows, lay_out(rows, half.tolist(), is_packed=self._is_packed))

    def _steering(self, cell: Cell, vector_R1D: Tensor, batch: Batch) -> Callable[[Tensor], Tensor]:
        """What a cell does to the stream [R, S, D] at its hook point."""
        operation, positions = self._protocol.operation, self._protocol.positions
        if positions == "all":
            return lambda resid_RSD: intervene(operation, resid_RSD, vector_R1D, cell.coeff)
        at_RS1 = torch.as_tensor(batch.steered_at(positions))[:, :, None]

        def steer(resid_RSD: Tensor) -> Tensor:
            changed_RSD = intervene(operation, resid_RSD, vector_R1D, cell.coeff)
            return torch.where(at_RS1.to(resid_RSD.device), changed_RSD, resid_RSD)

        return steer

    def _vectors(self, vectors: SteeringVectors, layer: int, fold_R: np.ndarray) -> Tensor:
        """Float32 vectors [R, 1, D], each sequence with that of its fold."""
        stacked = np.stack([vectors.for_fold(layer, int(fold)) for fold in fold_R])
        return torch.as_tensor(stacked, device=self._model.device)[:, None]

    def _score(self, resid_RSD: Tensor, batch: Batch, into: Scores) -> None:
        log_probs = scored_log_probs(self._model.layout, resid_RSD, batch).cpu().numpy()
        into.scores[batch.rows] = mean_scores(log_probs, batch)
        into.num_scored[batch.rows] = batch.num_scored


def _pool(resid_RSD: Tensor, batch: Batch, into: PooledStates, layer_index: int) -> None:
    """Pool a batch's states in float64; on the CPU where a device has no float64."""
    has_float64 = resid_RSD.device.type in ("cpu", "cuda")
    resid_RSD = (resid_RSD if has_float64 else resid_RSD.cpu()).double()
    # One sum, not the difference of two pooled states: the bits of vectors hang on it.
    differences_ND = _weighted(resid_RSD, batch.difference_weights, batch)
    into.differences[layer_index, batch.rows] = differences_ND
    if into.states is not None:
        for label, weights_RS in enumerate(batch.pooling_weights):
            states_ND = _weighted(resid_RSD, weights_RS, batch)
            into.states[label, layer_index, batch.rows] = states_ND


def _weighted(resid_RSD: Tensor, weights_RS: np.ndarray, batch: Batch) -> np.ndarray:
    """Weighted sums [N, D] float64 over the positions of each row."""
    weights = torch.as_tensor(weights_RS, device=resid_RSD.device)
    summed_RD = torch.einsum("rs,rsd->rd", weights, resid_RSD).cpu().numpy()
    summed_ND = np.zeros((len(batch.rows), summed_RD.shape[1]))
    np.add.at(summed_ND, batch.sequence_row, summed_RD)
    return summed_ND
