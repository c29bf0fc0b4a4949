"""Tasks that score data sets under persona vectors, and what an output holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.storage import Storage
from cluster.tasks import Task
from jobs.persona.index import Group, Parts
from jobs.persona.measuring import MeasuringSweep, group_of
from jobs.persona.tables import FROM_FILE
from jobs.scoring.inventory import Inventory, take_inventory
from jobs.scoring.plan import (
    PlannedTask,
    VectorSet,
    packing_for,
    plan_side_effects,
    would_plan,
)
from jobs.scoring.set_scorer import Payload, SteeringOf
from jobs.sweeps.worker import StoredVectors
from steering_core.vectors import SteeringVectors


def planned_with(
    sweep: MeasuringSweep, stored: Sequence[PlannedTask], tokens_per_batch: int
) -> tuple[list[PlannedTask], list[PlannedTask]]:
    """The tasks of a sweep that an output holds a plan for, and those that it lacks.

    A persona output may have dropped a model or a trait, or hold one of that name with other
    weights: tasks that the sweep would not plan like this do not count.

    Args:
        stored: the plan of the output.
        tokens_per_batch: positions of one forward pass, of an output that has no plan yet.
    """
    known = [task for task in stored if would_plan(sweep, task)]
    tokens = known[0].tokens_per_batch if known else tokens_per_batch
    packing = replace(packing_for(sweep), tokens_per_batch=tokens)
    return known, plan_side_effects(sweep, {}, known, packing)


def inventory_of(storage: Storage, planned: Sequence[PlannedTask], index: Parts) -> Inventory:
    """What an output holds of planned tasks, under the vectors that its index names.

    Raises:
        UserError: a damaged part or file of vectors.
    """
    keys = {group_of(group.model, group.trait): key for group, key in index.vectors.items()}

    def key_of(of: VectorSet) -> str | None:
        return keys.get(of.group)

    return take_inventory(storage, planned, key_of=key_of)


def kind_of_vectors(key: str) -> str:
    """What the vectors under a storage key are made of: ``in_sample`` answers, or ``file``."""
    return "file" if key.endswith(f".{FROM_FILE}.safetensors") else "in_sample"


class SideEffectTasks:
    """The tasks of data sets in one session."""

    def __init__(self, sweep: MeasuringSweep, planned: Sequence[PlannedTask]) -> None:
        self._sweep, self._planned = sweep, planned

    @property
    def num_rows(self) -> int:
        """Rows that are planned."""
        return sum(task.num_rows_cells for task in self._planned)

    def unsteered(self, model: str) -> list[Task]:
        """Tasks of a model that need no vectors."""
        return [
            self._task(task, task.plan_id, {})
            for task in self._planned
            if task.group.model == model and not task.is_steered
        ]

    def steered(self, group: Group, key: str, vectors: SteeringVectors) -> list[Task]:
        """Tasks of a trait, whose vectors are known.

        Args:
            key: where they are stored.
        """
        tasks = []
        for task in self._planned:
            if task.is_steered and task.group == group_of(group.model, group.trait):
                digests = {layer: vectors.digest(layer) for layer, _ in task.cells}
                steering = SteeringOf(StoredVectors(key, digests), None)
                of_tables = dict.fromkeys(task.tables, steering)
                tasks.append(self._task(task, task.task_id([digests]), of_tables))
        return tasks

    def _task(self, task: PlannedTask, task_id: str, vectors: Mapping[str, SteeringOf]) -> Task:
        return Task(
            task_id,
            task.group.model,
            task.cost,
            task.parts(task_id),
            replace(Payload.of(self._sweep, task, task_id), vectors=vectors),
            num_items=task.num_rows_cells,
        )
