"""The fast path: one unsteered trunk for a batch, a fork of it for each steered cell.

Shapes: N rows of a task, R sequences and S positions of a batch, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steering_core.batch_steering import BatchSteering, steering_of
from steering_core.encoding import EncodedExample
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.models import LoadedModel
from steering_core.packing import NUM_CANDIDATES, Batch, batches, lay_out
from steering_core.placing import PlacedBatch, place
from steering_core.pooled import PooledStates
from steering_core.pooling import pool, store
from steering_core.prefix_reuse import fork_behind_prefix, run_prefix_trunk
from steering_core.protocol import Protocol
from steering_core.scoring import mean_scores, scored_log_probs
from steering_core.trunk import fork, fork_point, run_trunk
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

    def fill(self, batch: Batch, log_probs_T: np.ndarray) -> None:
        """Take in the log-probabilities of a batch's scored tokens."""
        self.scores[batch.rows] = mean_scores(log_probs_T, batch)
        self.num_scored[batch.rows] = batch.num_scored


Finish = Callable[[], None]
"""Fetches what a batch's passes have left on the device, and stores it by row."""


class Engine:
    """Scores the rows of a task, unsteered and steered, on one model replica.

    The device is waited for once a batch, when the passes of the next one are under way.

    Args:
        is_packed: whether rows run as trees (see ``probes.can_pack``).
        reuses_prefix: whether what lies before the first steered position is left as the trunk
            has it (see ``probes.can_reuse_prefix``); only where the protocol leaves the prefix
            alone.
    """

    def __init__(
        self,
        model: LoadedModel,
        protocol: Protocol,
        *,
        is_packed: bool = True,
        reuses_prefix: bool = False,
    ) -> None:
        self._model = model
        self._protocol = protocol
        self.is_packed = is_packed
        self.reuses_prefix = reuses_prefix and is_packed and protocol.leaves_prefix_alone
        self._num_blocks = model.layout.num_blocks
        self._most_positions = sys.maxsize

    def anew(self) -> Engine:
        """The same engine, to which every batch size is new."""
        return Engine(
            self._model,
            self._protocol,
            is_packed=self.is_packed,
            reuses_prefix=self.reuses_prefix,
        )

    def baseline(
        self,
        rows: Sequence[EncodedExample],
        tokens_per_batch: int,
        layers: Sequence[int] = (),
    ) -> tuple[Scores, PooledStates]:
        """Unsteered scores and, at each layer, what is pooled of the rows' states.

        Args:
            rows: encoded examples of a task.
            tokens_per_batch: positions of one forward pass, padding included.
            layers: 1-based layers whose states are pooled.

        Returns:
            Scores and pooled states, in the order of ``rows``.
        """
        read = [self._protocol.read_at(layer) for layer in layers]
        below_last = HookPoint(self._num_blocks - 1, "resid_pre")
        scores = Scores.empty(len(rows))
        width = self._model.layout.config.hidden_size
        pooled = PooledStates.empty(layers, len(rows), width)

        def run(batch: PlacedBatch) -> Finish:
            trunk = run_trunk(self._model, batch, {below_last, *read})
            log_probs_T = self._log_probs(fork(self._model, trunk, batch, {}), batch)
            sums = [pool(trunk.states[point], batch.host) for point in read]

            def finish() -> None:
                scores.fill(batch.host, log_probs_T.cpu().numpy())
                for index, of_layer in enumerate(sums):
                    store(of_layer, batch.host, pooled, index)

            return finish

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
        folds = folds or [0] * len(rows)
        scores = [Scores.empty(len(rows)) for _ in cells]
        points = {self._protocol.apply_at(cell.layer) for cell in cells}
        keep = {fork_point(point, self._num_blocks) for point in points}

        def run(batch: PlacedBatch) -> Finish:
            forked = self._forked(batch, keep)

            def log_probs(cell: Cell) -> Tensor:
                own = [
                    self._protocol.intervention(
                        cell.layer, cell.coeff, vectors.for_fold(cell.layer, folds[n])
                    )
                    for n in batch.host.rows
                ]
                return self._log_probs(forked(own), batch)

            cells_CT = torch.stack([log_probs(cell) for cell in cells])

            def finish() -> None:
                for into, log_probs_T in zip(scores, cells_CT.cpu().numpy(), strict=True):
                    into.fill(batch.host, log_probs_T)

            return finish

        if cells:
            self._for_each_batch(run, rows, tokens_per_batch)
        return scores

    def side_by_side(
        self,
        rows: Sequence[EncodedExample],
        tokens_per_batch: int,
        interventions: Sequence[Intervention],
    ) -> Scores:
        """Scores of the rows, each under an intervention of its own, in the order of ``rows``.

        Rows of one batch may be steered at different points, by different operations, along
        different vectors, at different positions: one pass through the blocks serves them all.
        """
        scores = Scores.empty(len(rows))

        def run(batch: PlacedBatch) -> Finish:
            own = [interventions[n] for n in batch.host.rows]
            start = min(fork_point(i.point, self._num_blocks) for i in own)
            trunk = run_trunk(self._model, batch, {start})
            changes = steering_of(_of_sequences(own, batch.host), batch.host, self._model.device)
            log_probs_T = self._log_probs(fork(self._model, trunk, batch, changes), batch)
            return lambda: scores.fill(batch.host, log_probs_T.cpu().numpy())

        self._for_each_batch(run, rows, tokens_per_batch)
        return scores

    def _forked(
        self, batch: PlacedBatch, keep: set[HookPoint]
    ) -> Callable[[Sequence[Intervention]], Tensor]:
        """Run the trunk; gives what the last block leaves [R, S, D] under interventions by row."""
        model = self._model

        def changes(own: Sequence[Intervention]) -> dict[HookPoint, BatchSteering]:
            return steering_of(_of_sequences(own, batch.host), batch.host, model.device)

        if self.reuses_prefix:
            behind = run_prefix_trunk(model, batch, keep, self._protocol.positions)
            return lambda own: fork_behind_prefix(model, behind, batch, changes(own))
        trunk = run_trunk(model, batch, keep)
        return lambda own: fork(model, trunk, batch, changes(own))

    def _log_probs(self, resid_RSD: Tensor, batch: PlacedBatch) -> Tensor:
        return scored_log_probs(self._model.layout, resid_RSD, batch)

    def _for_each_batch(
        self,
        run: Callable[[PlacedBatch], Finish],
        rows: Sequence[EncodedExample],
        tokens_per_batch: int,
    ) -> None:
        """Run every batch of the rows, in halves where the device's memory does not hold it.

        What ``run`` finds is stored by row, so that a batch may run again in part. What did not fit
        once is not tried again by this engine. Scores of a halved batch differ from those of the
        whole one by rounding alone.

        Raises:
            torch.OutOfMemoryError: a single row does not fit.
        """
        with torch.inference_mode():
            finish: Finish | None = None
            for batch in batches(rows, tokens_per_batch, is_packed=self.is_packed):
                for following in self._in_parts(run, rows, batch):
                    if finish is not None:
                        finish()
                    finish = following
            if finish is not None:
                finish()

    def _in_parts(
        self, run: Callable[[PlacedBatch], Finish], rows: Sequence[EncodedExample], batch: Batch
    ) -> Iterator[Finish]:
        is_alone = len(batch.rows) == 1
        if is_alone or batch.input_ids.size <= self._most_positions:
            try:
                finish = run(place(batch, self._model.device))
            except torch.OutOfMemoryError:
                if is_alone:
                    raise
                self._most_positions = batch.input_ids.size // 2
            else:
                yield finish
                return
        # Behind the handler: the error held on to the tensors of the batch that failed.
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        for half in np.array_split(batch.rows, 2):
            part = lay_out(rows, half.tolist(), is_packed=self.is_packed)
            yield from self._in_parts(run, rows, part)


def _of_sequences(own: Sequence[Intervention], batch: Batch) -> list[Intervention]:
    """Those of rows [N], for each of the batch's sequences [R]."""
    return [own[n] for n in batch.sequence_row]
