"""Steering vectors of a group, fitted by the driver from the parts of its phase 1 tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Self

from cluster.storage import Storage
from jobs.stereoset.fit_task import (
    PartRef,
    SetToFit,
    read_states,
    read_sums,
    shuffled_sums,
    vectors_from_states,
    vectors_from_sums,
)
from jobs.stereoset.plan import PlannedTask
from jobs.stereoset.tables import HELD_OUT_SUMS, LayerStates
from steering_core.vectors import FoldSums, Method, SteeringVectors, mean_stream_norms


class GroupFits:
    """Fits of one group. A context: the states that it holds are let go at its end.

    Args:
        tasks: the phase 1 tasks of the group, all done.
    """

    def __init__(self, storage: Storage, tasks: Sequence[PlannedTask]) -> None:
        self._storage, self._tasks = storage, tasks
        self._states: dict[int, LayerStates] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._states.clear()

    def from_sums(
        self, layers: Collection[int], num_folds: int, *, held_out: bool = False
    ) -> SteeringVectors:
        """Mean differences at some layers.

        Args:
            held_out: fit from the sums by held-out fold instead of those of all examples.

        Raises:
            UserError: the examples do not determine a vector.
        """
        tasks = (
            read_sums(self._storage, self._parts(HELD_OUT_SUMS, layers), layers)
            if held_out
            else self._sums_at(layers)
        )
        return vectors_from_sums(tasks, num_folds)

    def stream_norms(self, layers: Collection[int]) -> dict[int, float]:
        """Mean norm of the unsteered stream where layers are steered; of those it is known of."""
        return mean_stream_norms(self._sums_at(layers))

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
            UserError: the examples do not determine a vector.
        """
        if missing := set(layers) - self._states.keys():
            parts = self._parts("states", missing)
            self._states |= read_states(self._storage, parts, sorted(missing))
        states = {layer: self._states[layer] for layer in layers}
        to_fit = SetToFit("", "states", fold_of, num_folds, label_seed)
        return vectors_from_states(states, method, to_fit, str(self._tasks[0].group))

    def shuffled_sums(self, layers: Collection[int], num_folds: int) -> SteeringVectors:
        """The one draw of shuffled labels of an output that an earlier version began.

        Raises:
            UserError: phase 1 was computed by a version that did not shuffle.
        """
        return vectors_from_sums(shuffled_sums(self._sums_at(layers), self._storage.uri), num_folds)

    def _sums_at(self, layers: Collection[int]) -> list[list[FoldSums]]:
        return [[entry for entry in task if entry.layer in layers] for task in self._sums]

    @cached_property
    def _sums(self) -> list[list[FoldSums]]:
        """The sums of each task, in the order of shards and layers in which they are added."""
        layers = {layer for task in self._tasks for layer in task.layers}
        return read_sums(self._storage, self._parts("sums", layers), layers)

    def _parts(self, table: str, layers: Collection[int]) -> list[PartRef]:
        """The parts of a table of tasks that pooled one of the layers."""
        return [
            PartRef(task.parts(task.plan_id)[table], task.plan_id)
            for task in self._tasks
            if table in task.tables and set(layers) & set(task.layers)
        ]
