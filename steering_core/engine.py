"""The fast path: one unsteered trunk for a batch, a fork of it for each steered cell.

Shapes: N rows of a task, R sequences and S positions of a batch, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steering_core.batch_steering import BatchSteering, steering_of
from steering_core.buckets import Buckets, batches_in_buckets, filled
from steering_core.encoding import EncodedExample
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.kernels.applied import AppliedKernels
from steering_core.models import LoadedModel
from steering_core.out_of_memory import is_out_of_memory
from steering_core.packing import Batch, batches, lay_out
from steering_core.placing import PlacedBatch, fetch, place
from steering_core.pooled import PooledStates
from steering_core.pooling import pool, position_norms, store, store_norms
from steering_core.prefix_reuse import fork_behind_prefix, run_prefix_trunk
from steering_core.protocol import Protocol
from steering_core.scoring import (
    Measure,
    mean_divergences,
    mean_scores,
    read_hidden,
    scored_log_probs,
    scored_with_divergence,
)
from steering_core.trunk import Reader, fork, fork_point, run_trunk
from steering_core.vectors import SteeringVectors
from steering_core.xla import forward_only, is_xla, launch


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One point of the steered grid: a 1-based layer and a coefficient."""

    layer: int
    coeff: float


@dataclass(frozen=True)
class Scores:
    """Mean nats per scored token [N, C] float64 and counts [N, C] int64, in file order.

    C is that of the row with most candidates; the others have NaN and a count of 0 there.

    Attributes:
        kl: [N] float64, mean nats over each row's scored tokens of D_KL(P_steered ||
            P_unsteered); None where it was not measured.
    """

    scores: np.ndarray
    num_scored: np.ndarray
    kl: np.ndarray | None = None

    @classmethod
    def empty(cls, rows: Sequence[EncodedExample], measures: Collection[Measure] = ()) -> Scores:
        """Scores of these rows that are filled batch by batch."""
        shape = (len(rows), max((len(row.candidates) for row in rows), default=0))
        kl = np.full(len(rows), np.nan) if "kl" in measures else None
        return cls(np.full(shape, np.nan), np.zeros(shape, np.int64), kl)

    def fill(self, batch: Batch, log_probs_T: np.ndarray, kl_T: np.ndarray | None = None) -> None:
        """Take in the log-probabilities of a batch's scored tokens, and divergences if measured."""
        of_batch = batch.rows, slice(batch.num_candidates)
        self.scores[of_batch] = mean_scores(log_probs_T, batch)
        self.num_scored[of_batch] = batch.num_scored
        if self.kl is not None and kl_T is not None:
            self.kl[batch.rows] = mean_divergences(kl_T, batch)

    @property
    def is_there(self) -> np.ndarray:
        """[N, C] bool: candidates that the rows have."""
        there: np.ndarray = self.num_scored > 0
        return there

    def of_row(self, row: int) -> np.ndarray:
        """Scores of the candidates that one row has."""
        scores: np.ndarray = self.scores[row, self.is_there[row]]
        return scores


@dataclass(frozen=True)
class Arm:
    """Cells that are steered with the same vectors.

    Attributes:
        folds: fold of each row [N], which says whose vector steers it; empty: all are in fold 0.
    """

    cells: Sequence[Cell]
    vectors: SteeringVectors
    folds: Sequence[int] = ()


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
        is_static: whether batches are filled up to a few shapes (``buckets``), at the price of
            padding; None: where the device compiles a program for each shape.
        kernels: Triton kernels that replace the model's own code in these passes, by name
            (``steering_core.kernels.KERNELS``); nothing else runs with them.
        measures: what ``steered`` measures beside scores; for ``kl`` the trunk runs to the top, and
            the head multiplies the unsteered side as well.

    Raises:
        UserError: a kernel that this model, device or dtype cannot use.
    """

    def __init__(
        self,
        model: LoadedModel,
        protocol: Protocol,
        *,
        is_packed: bool = True,
        reuses_prefix: bool = False,
        is_static: bool | None = None,
        kernels: Collection[str] = (),
        measures: Collection[Measure] = (),
    ) -> None:
        self._model = model
        self._protocol = protocol
        self.measures = tuple(measures)
        self.is_packed = is_packed
        self.reuses_prefix = reuses_prefix and is_packed and protocol.leaves_prefix_alone
        self.is_static = is_xla(model.device) if is_static is None else is_static
        self._kernels = AppliedKernels(model, kernels, is_packed=is_packed)
        self._num_blocks = model.layout.num_blocks
        self._most_positions = sys.maxsize

    def anew(self, kernels: Collection[str] | None = None) -> Engine:
        """The same engine, to which every batch size is new; with other kernels if they are given.

        Raises:
            UserError: a kernel that this model, device or dtype cannot use.
        """
        return Engine(
            self._model,
            self._protocol,
            is_packed=self.is_packed,
            reuses_prefix=self.reuses_prefix,
            is_static=self.is_static,
            kernels=self.kernels if kernels is None else kernels,
            measures=self.measures,
        )

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that its passes run with, in order."""
        return self._kernels.names

    @property
    def buckets(self) -> Buckets | None:
        """The widths of batches, None where each is as wide as its longest row."""
        if not self.is_static:
            return None
        widest = getattr(self._model.layout.config, "max_position_embeddings", None)
        return Buckets(None if self.is_packed else widest)

    def baseline(
        self,
        rows: Sequence[EncodedExample],
        tokens_per_batch: int,
        layers: Sequence[int] = (),
    ) -> tuple[Scores, PooledStates]:
        """Unsteered scores and, at each layer, what is pooled of the rows' states.

        The norms of the stream are taken as the pass comes to where a layer is steered, so that no
        state is held for them.

        Args:
            rows: encoded examples of a task.
            tokens_per_batch: positions of one forward pass, padding included.
            layers: 1-based layers whose states are pooled, and whose stream is measured.

        Returns:
            Scores and pooled states, in the order of ``rows``.
        """
        read = [self._protocol.read_at(layer) for layer in layers]
        apply = [self._protocol.apply_at(layer) for layer in layers]
        below_last = HookPoint(self._num_blocks - 1, "resid_pre")
        scores = Scores.empty(rows)
        width = self._model.layout.config.hidden_size
        pooled = PooledStates.empty(layers, rows, width)

        def run(batch: PlacedBatch) -> Finish:
            norms_RS: dict[HookPoint, Callable[[], np.ndarray]] = {}

            def measured_at(point: HookPoint) -> Reader:
                def measure(state_RSD: Tensor) -> None:
                    norms_RS[point] = fetch(position_norms(state_RSD))

                return point, measure

            readers = [measured_at(point) for point in apply]
            trunk = run_trunk(self._model, batch, {below_last, *read}, readers)
            log_probs_T = fetch(self._log_probs(fork(self._model, trunk, batch, {}), batch))
            sums = [pool(trunk.states[point], batch.host) for point in read]
            launch(self._model.device)

            def finish() -> None:
                scores.fill(batch.host, log_probs_T())
                for index, of_layer in enumerate(sums):
                    store(of_layer(), batch.host, pooled, index)
                for index, point in enumerate(apply):
                    store_norms(norms_RS[point](), batch.host, pooled, index)

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
        """Scores of the rows under each cell, in the order of ``cells`` (``steered_in_arms``)."""
        return self.steered_in_arms(rows, tokens_per_batch, [Arm(cells, vectors, folds)])[0]

    def steered_in_arms(
        self, rows: Sequence[EncodedExample], tokens_per_batch: int, arms: Sequence[Arm]
    ) -> list[list[Scores]]:
        """Scores of the rows under each cell of each arm, in the order of arms, then of cells.

        The trunk runs once for a batch, however many arms there are; each cell of each arm runs the
        blocks above its hook point only. Scores of a cell do not depend on the other cells.
        """
        steps = [(arm, cell) for arm in arms for cell in arm.cells]
        scores = [Scores.empty(rows, self.measures) for _ in steps]
        points = {self._protocol.apply_at(cell.layer) for _, cell in steps}
        keep = {fork_point(point, self._num_blocks) for point in points}
        if "kl" in self.measures:
            keep.add(HookPoint(self._num_blocks - 1, "resid_pre"))

        def run(batch: PlacedBatch) -> Finish:
            forked = self._forked(batch, keep)
            unsteered_MD = None
            if "kl" in self.measures:
                unsteered_MD = read_hidden(self._model.layout, forked(()), batch)
            launch(self._model.device)

            def scored(arm: Arm, cell: Cell) -> Tensor:
                own = [
                    self._protocol.intervention(
                        cell.layer,
                        arm.vectors.multiplier(cell.layer, fold, cell.coeff),
                        arm.vectors.for_fold(cell.layer, fold),
                    )
                    for fold in [arm.folds[n] if arm.folds else 0 for n in batch.host.rows]
                ]
                of_cell = self._scored(forked(own), unsteered_MD, batch)
                # A program for each layer, and not one for all the cells that a task has.
                launch(self._model.device)
                return of_cell

            of_steps = fetch(torch.stack([scored(arm, cell) for arm, cell in steps]))
            launch(self._model.device)

            def finish() -> None:
                for into, of_step in zip(scores, of_steps(), strict=True):
                    into.fill(batch.host, *of_step)

            return finish

        if steps:
            self._for_each_batch(run, rows, tokens_per_batch)
        by_step = iter(scores)
        return [[next(by_step) for _ in arm.cells] for arm in arms]

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
        scores = Scores.empty(rows)

        def run(batch: PlacedBatch) -> Finish:
            own = [interventions[n] for n in batch.host.rows]
            start = min(fork_point(i.point, self._num_blocks) for i in own)
            trunk = run_trunk(self._model, batch, {start})
            changes = steering_of(_of_sequences(own, batch.host), batch.host, self._model.device)
            log_probs_T = fetch(self._log_probs(fork(self._model, trunk, batch, changes), batch))
            launch(self._model.device)
            return lambda: scores.fill(batch.host, log_probs_T())

        self._for_each_batch(run, rows, tokens_per_batch)
        return scores

    def _forked(
        self, batch: PlacedBatch, keep: set[HookPoint]
    ) -> Callable[[Sequence[Intervention]], Tensor]:
        """Run the trunk; gives what the last block leaves [R, S, D] under interventions by row.

        Under none, what it leaves without steering: by the same way through the last block, so that
        a coefficient of 0 gives the same bits.
        """
        model = self._model

        def changes(own: Sequence[Intervention]) -> dict[HookPoint, BatchSteering]:
            if not own:
                return {}
            return steering_of(_of_sequences(own, batch.host), batch.host, model.device)

        if self.reuses_prefix:
            behind = run_prefix_trunk(model, batch, keep, self._protocol.positions)
            return lambda own: (
                fork_behind_prefix(model, behind, batch, changes(own)) if own else behind.left
            )
        trunk = run_trunk(model, batch, keep)
        return lambda own: fork(model, trunk, batch, changes(own))

    def _log_probs(self, resid_RSD: Tensor, batch: PlacedBatch) -> Tensor:
        return scored_log_probs(self._model.layout, resid_RSD, batch, self._kernels.add_log_sum_exp)

    def _scored(self, resid_RSD: Tensor, unsteered_MD: Tensor | None, batch: PlacedBatch) -> Tensor:
        """Log-probabilities [1, T], and divergences behind them [2, T] if they are measured."""
        if unsteered_MD is None:
            return self._log_probs(resid_RSD, batch)[None]
        return scored_with_divergence(
            self._model.layout, resid_RSD, unsteered_MD, batch, self._kernels.add_log_sum_exp
        )

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
            RuntimeError: a single row does not fit (see ``is_out_of_memory``).
        """
        with forward_only(self._model.device):
            under_way: tuple[Batch, Finish] | None = None
            for batch in self._batches(rows, tokens_per_batch):
                for following in self._in_parts(run, rows, batch):
                    if under_way is not None:
                        self._complete(run, rows, *under_way)
                    under_way = following
            if under_way is not None:
                self._complete(run, rows, *under_way)

    def _batches(self, rows: Sequence[EncodedExample], tokens_per_batch: int) -> Iterator[Batch]:
        if self.buckets is None:
            return batches(rows, tokens_per_batch, is_packed=self.is_packed)
        return batches_in_buckets(rows, tokens_per_batch, self.buckets, is_packed=self.is_packed)

    def _in_parts(
        self, run: Callable[[PlacedBatch], Finish], rows: Sequence[EncodedExample], batch: Batch
    ) -> Iterator[tuple[Batch, Finish]]:
        """Start a batch, or its halves one after the other."""
        if batch.num_places == 1 or batch.input_ids.size <= self._most_positions:
            try:
                with self._kernels.open():
                    finish = run(place(batch, self._model.device))
            except (RuntimeError, MemoryError) as error:
                self._note_too_large(batch, error)
            else:
                yield batch, finish
                return
            # Not in the handler, whose error holds on to the tensors of the batch that failed; and
            # not for a batch that was not tried, since emptying the cache waits for the device.
            self._free()
        for part in _halves(rows, batch):
            yield from self._in_parts(run, rows, part)

    def _complete(
        self,
        run: Callable[[PlacedBatch], Finish],
        rows: Sequence[EncodedExample],
        batch: Batch,
        finish: Finish,
    ) -> None:
        """Fetch what a batch has left; a device that runs behind may only now be out of memory."""
        try:
            finish()
        except (RuntimeError, MemoryError) as error:
            self._note_too_large(batch, error)
        else:
            return
        self._free()
        for part in _halves(rows, batch):
            for of_part in self._in_parts(run, rows, part):
                self._complete(run, rows, *of_part)

    def _note_too_large(self, batch: Batch, error: Exception) -> None:
        """Remember what does not fit; raises any other error, and this one where a row is alone."""
        if batch.num_places == 1 or not is_out_of_memory(error):
            raise error
        self._most_positions = min(self._most_positions, batch.input_ids.size // 2)

    def _free(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()


def _halves(rows: Sequence[EncodedExample], batch: Batch) -> Iterator[Batch]:
    """The batch's rows in one or two batches of half its room."""
    num_rows = -(-batch.num_places // 2)
    for low in range(0, len(batch.rows), num_rows):
        part = lay_out(rows, batch.rows[low : low + num_rows].tolist(), is_packed=batch.is_packed)
        yield filled(part, num_rows, batch.input_ids.shape[1]) if batch.is_static else part


def _of_sequences(own: Sequence[Intervention], batch: Batch) -> list[Intervention]:
    """Those of rows [N], for each of the batch's sequences [R]."""
    return [own[n] for n in batch.sequence_row]
