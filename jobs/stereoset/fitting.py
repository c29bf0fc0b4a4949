"""Steering vectors of a group, fitted from the parts that its phase 1 tasks have left."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import pyarrow as pa

from cluster.errors import UserActionError
from cluster.parts import read_part
from cluster.storage import Storage
from jobs.stereoset.plan import PlannedTask
from jobs.stereoset.spool import StateSpool
from jobs.stereoset.tables import HELD_OUT_SUMS, fold_sums
from steering_core.vector_fits import fit_layer
from steering_core.vectors import (
    FoldSums,
    Method,
    SteeringVectors,
    fit_mean_difference,
    mean_stream_norms,
)

logger = logging.getLogger(__name__)


class GroupFits:
    """Fits of one group. A context: what it keeps on local disk is deleted at its end.

    Args:
        tasks: the phase 1 tasks of the group, all done.
    """

    def __init__(self, storage: Storage, tasks: Sequence[PlannedTask]) -> None:
        self._storage, self._tasks = storage, tasks
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def from_sums(
        self, layers: Collection[int], num_folds: int, *, held_out: bool = False
    ) -> SteeringVectors:
        """Mean differences at some layers.

        Args:
            held_out: fit from the sums by held-out fold, which stand beside those of all examples.

        Raises:
            InputError: the examples do not determine a vector.
        """
        tasks = (
            [fold_sums(p) for p in self._parts(HELD_OUT_SUMS, layers)] if held_out else self._sums
        )
        sums = [entry for of_task in tasks for entry in of_task if entry.layer in layers]
        return fit_mean_difference(sums, num_folds)

    def stream_norms(self, layers: Collection[int]) -> dict[int, float]:
        """Mean norm of the unsteered stream where layers are steered; of those it is known of."""
        return mean_stream_norms(
            [[entry for entry in of_task if entry.layer in layers] for of_task in self._sums]
        )

    def from_states(
        self,
        layers: Collection[int],
        method: Method,
        fold_of: Mapping[str, int],
        num_folds: int,
        label_seed: str | None = None,
    ) -> SteeringVectors:
        """Vectors at some layers from the pooled states of each example.

        Args:
            fold_of: by example.
            label_seed: shuffle the labels first (``nulls.label_signs``).

        Raises:
            InputError: the examples do not determine a vector.
            UserActionError: the states do not fit on the local disk.
        """
        whole, folds = {}, {}
        for layer in layers:
            start = time.monotonic()
            pairs = self._spool.pairs(layer, fold_of, label_seed)
            what = f"layer {layer} of {self._tasks[0].group}"
            whole[layer], of_folds = fit_layer(method, pairs, num_folds, what)
            if of_folds:
                folds[layer] = of_folds
            logger.info("%s vectors of %s, %.1f s", method, what, time.monotonic() - start)
        return SteeringVectors(whole, folds)

    def shuffled_sums(self, layers: Collection[int], num_folds: int) -> SteeringVectors:
        """The one draw of shuffled labels of an output that an earlier version began.

        Raises:
            UserActionError: phase 1 was computed by a version that did not shuffle.
        """
        sums = []
        for of_task in self._sums:
            for entry in of_task:
                if entry.shuffled is None:
                    raise UserActionError(
                        f"{self._storage.uri} was started before `nulls: [shuffled]` was added; "
                        "leave it out, or use --new for a new output"
                    )
                if entry.layer in layers:
                    sums.append(replace(entry, total=entry.shuffled))
        return fit_mean_difference(sums, num_folds)

    @cached_property
    def _sums(self) -> list[list[FoldSums]]:
        """The sums of each task, in the order of shards and layers in which they are added."""
        return [fold_sums(part) for part in self._parts("sums")]

    @cached_property
    def _spool(self) -> StateSpool:
        """Every layer's states, which all fits of the group read."""
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="steersweep-"))
        spool = StateSpool(Path(folder))
        for part in self._parts("states"):
            spool.add(part)
        return spool

    def _parts(self, table: str, layers: Collection[int] | None = None) -> Iterator[pa.Table]:
        """The parts of a table; of tasks that pooled one of the layers, if any are named."""
        for task in self._tasks:
            if table in task.tables and (layers is None or set(layers) & set(task.layers)):
                yield read_part(self._storage, task.parts(task.plan_id)[table], task.plan_id)
