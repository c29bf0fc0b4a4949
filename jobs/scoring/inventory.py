"""What an output holds of its plan, known from its storage alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, KeysView, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cluster.checked import CheckedPart
from cluster.errors import ObjectNotFoundError
from cluster.ledger import Ledger
from cluster.storage import Storage
from cluster.threads import thread_pool
from jobs.scoring.groups import Group
from jobs.scoring.manifest import from_tables
from jobs.scoring.plan import PlannedTask, VectorSet
from jobs.scoring.tables import FITS, HELD_OUT, HELD_OUT_SUMS, SIDE_FOLDERS, STEERED, side_table
from jobs.sweeps.parts import StoredParts
from steering_core.vectors import SteeringVectors, from_safetensors
from steersweep.errors import UserError

_READERS = 16


@dataclass(frozen=True)
class Inventory:
    """Planned tasks of an output, its vectors, and which tasks are done.

    Attributes:
        vectors: the sets of vectors that are there.
        task_ids: plan id to task id; a steered task has one only once its vectors are fitted.
        metadata: plan id to the metadata of a done task's last part.
        parts: every part of a task that is done, by its key.
    """

    planned: tuple[PlannedTask, ...]
    vectors: Mapping[VectorSet, SteeringVectors]
    task_ids: Mapping[str, str]
    metadata: Mapping[str, Mapping[str, str]]
    parts: Mapping[str, CheckedPart]

    @property
    def done(self) -> KeysView[str]:
        """Plan ids of the tasks whose parts are all there."""
        return self.metadata.keys()

    @cached_property
    def of_own_data(self) -> tuple[PlannedTask, ...]:
        """Planned tasks on the data that vectors are fitted to: without side effects."""
        return tuple(task for task in self.planned if side_table(task.tables[0]) is None)

    def tasks_done(self) -> list[PlannedTask]:
        """The tasks that are done."""
        return [task for task in self.planned if task.plan_id in self.done]

    def footers(self) -> dict[str, list[Mapping[str, str]]]:
        """By model, the metadata of each done task's last part, which holds its certificate."""
        found: dict[str, list[Mapping[str, str]]] = {}
        for task in self.tasks_done():
            found.setdefault(task.group.model, []).append(self.metadata[task.plan_id])
        return found

    @property
    def num_rows_done(self) -> int:
        """Cell rows of the tasks that are done."""
        return sum(task.num_rows_cells for task in self.tasks_done())

    @property
    def num_own_rows_done(self) -> int:
        """The same of the sweep's own data, without side effects."""
        return sum(task.num_rows_cells for task in self.of_own_data if task.plan_id in self.done)

    def without_baseline(self) -> list[tuple[Group, int]]:
        """Groups that have steered rows, and how many parts of their baseline are missing."""
        missing: Counter[Group] = Counter()
        steered = set()
        for task in self.of_own_data:
            is_done = task.plan_id in self.done
            missing[task.group] += "baseline" in task.tables and not is_done
            if task.cells and is_done:
                steered.add(task.group)
        return [(group, missing[group]) for group in sorted(steered) if missing[group]]

    def parts_done(
        self, table: str, group: Group | None = None
    ) -> list[tuple[PlannedTask, str, str]]:
        """(task, task id, storage key) of every done task's part of a table; of one group's."""
        return [
            (task, self.task_ids[task.plan_id], task.parts(self.task_ids[task.plan_id])[table])
            for task in self.tasks_done()
            if table in task.tables and (group is None or task.group == group)
        ]


PART_FOLDERS = tuple(
    f"{table}/"
    for table in (
        *("sums", HELD_OUT_SUMS, "states", "baseline", FITS, STEERED, HELD_OUT, "nulls"),
        *SIDE_FOLDERS,
    )
)
"""Folders of an output that hold parts."""


def take_inventory(
    storage: Storage,
    planned: Sequence[PlannedTask] | None = None,
    parts: StoredParts | None = None,
    key_of: Callable[[VectorSet], str | None] = lambda of: of.key,
) -> Inventory:
    """What is planned and what is done.

    Args:
        planned: the plan if the caller has it; otherwise the manifest's.
        parts: of the output, if the caller has listed them.
        key_of: where vectors are stored; None if they are not there yet.

    Raises:
        UserError: a part that is damaged, or no run at all.
    """
    if planned is None:
        planned = from_tables(Ledger(storage).read_manifest())
        if not planned:
            raise UserError(f"{storage.uri} holds no run of steersweep")
    wanted = list(dict.fromkeys(of for task in planned for of in task.vector_sets))
    with thread_pool(_READERS) as pool:  # draws of nulls make hundreds of small files
        read = pool.map(lambda of: read_vectors(storage, key_of(of)), wanted)
    vectors = {of: found for of, found in zip(wanted, read, strict=True) if found is not None}
    task_ids = {}
    for task in planned:
        task_id = task_id_with(task, vectors)
        if task_id is not None:
            task_ids[task.plan_id] = task_id
    stored = StoredParts(storage, PART_FOLDERS) if parts is None else parts
    keys_by_plan = {
        task.plan_id: list(task.parts(task_ids[task.plan_id]).values())
        for task in planned
        if task.plan_id in task_ids
    }
    done = stored.done_of({task_ids[plan_id]: keys for plan_id, keys in keys_by_plan.items()})
    keys_done = {plan: keys for plan, keys in keys_by_plan.items() if task_ids[plan] in done}
    return Inventory(
        tuple(planned),
        vectors,
        task_ids,
        {plan: stored.checked[keys[-1]].metadata for plan, keys in keys_done.items()},
        {key: stored.checked[key] for keys in keys_done.values() for key in keys},
    )


def read_vectors(storage: Storage, key: str | None) -> SteeringVectors | None:
    """Vectors of a set, or None where there are none yet; raises UserError if damaged."""
    if key is None:
        return None
    try:
        data = storage.read(key)
    except ObjectNotFoundError:
        return None
    try:
        return from_safetensors(data, storage.uri_of(key))
    except UserError as error:
        raise UserError(f"{error}; delete it to have it recomputed") from error


def task_id_with(task: PlannedTask, vectors: Mapping[VectorSet, SteeringVectors]) -> str | None:
    """The task's id, or None for a steered task whose vectors are not there yet."""
    layers = {layer for layer, _ in task.cells}
    sets = [vectors.get(of) for of in task.vector_sets]
    if any(of is None or not layers <= set(of.whole) for of in sets):
        return None
    return task.task_id([{layer: of.digest(layer) for layer in layers} for of in sets if of])
