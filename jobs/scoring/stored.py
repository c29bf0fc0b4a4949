"""The stored rows of an output, table by table; what is not complete is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import pyarrow as pa

from cluster.parts import read_part
from cluster.storage import Storage
from cluster.threads import thread_pool
from jobs.scoring.groups import Group
from jobs.scoring.inventory import Inventory
from jobs.scoring.plan import PlannedTask, VectorSet
from jobs.scoring.tables import STEERED, side_table

_READERS = 8


class CellRows(NamedTuple):
    """The rows of a cell.

    Attributes:
        dose: None if it is not known.
        rows: every example, in the order of the unsteered rows.
    """

    layer: int
    coeff: float
    dose: float | None
    rows: pa.Table


class RowsOutput(Protocol):
    """An output that holds scored rows."""

    @property
    def storage(self) -> Storage:
        """Where it is."""

    @property
    def inventory(self) -> Inventory:
        """What of scored rows is planned and done."""


@dataclass(frozen=True)
class StoredTables:
    """The rows of an output by group and table."""

    output: RowsOutput

    @property
    def num_planned(self) -> int:
        """Rows that are planned."""
        return sum(task.num_rows_cells for task in self.output.inventory.planned)

    @property
    def num_missing(self) -> int:
        """Rows that are planned and not there."""
        return self.num_planned - self.output.inventory.num_rows_done

    @cached_property
    def by_group(self) -> Mapping[Group, Mapping[str, list[PlannedTask]]]:
        """Planned tasks by group and table, each list by shard.

        Found in one pass: with nulls there are hundreds of tables.
        """
        found: dict[Group, dict[str, list[PlannedTask]]] = {}
        for task in sorted(self.output.inventory.planned, key=lambda task: task.shard):
            of_group = found.setdefault(task.group, {})
            for table in task.tables:
                of_group.setdefault(table, []).append(task)
        return found

    @property
    def groups(self) -> list[Group]:
        """Groups that have vectors; the others are whole data sets."""
        return sorted(group for group in self.by_group if group.key)

    def rows(self, group: Group, table: str = "baseline") -> pa.Table | None:
        """All rows of a table that no vector steers, by shard; None if one part is missing.

        Raises:
            CorruptPartError: a damaged part.
        """
        tasks = self.by_group.get(group, {}).get(table, [])
        parts = self._read(tasks, table)
        return pa.concat_tables(parts.values()) if parts and len(parts) == len(tasks) else None

    def cells(self, group: Group, table: str, num_examples: int) -> Iterator[CellRows]:
        """Each cell that has all examples; the parts of a table are in memory together.

        Raises:
            CorruptPartError: a damaged part.
        """
        tasks = self.by_group.get(group, {}).get(table, [])
        shards: dict[tuple[int, float], list[pa.Table]] = {}
        for task, part in self._read(tasks, table).items():
            num = len(task.example_ids)
            for at, cell in enumerate(task.typed_cells()):
                shards.setdefault((cell.layer, cell.coeff), []).append(part.slice(at * num, num))
        if not shards:
            return
        side = side_table(table)
        vectors = self.output.inventory.vectors[VectorSet(group, STEERED if side else table)]
        if side is not None:
            vectors = vectors.without_folds()
        for (layer, coeff), parts in sorted(shards.items()):
            if sum(map(len, parts)) == num_examples:
                yield CellRows(layer, coeff, vectors.dose(layer, coeff), pa.concat_tables(parts))

    def _read(self, tasks: Sequence[PlannedTask], table: str) -> dict[PlannedTask, pa.Table]:
        """The parts of those tasks that are done, in the order of the tasks."""
        inventory, storage = self.output.inventory, self.output.storage
        done = [task for task in tasks if task.plan_id in inventory.done]

        def read(task: PlannedTask) -> pa.Table:
            task_id = inventory.task_ids[task.plan_id]
            return read_part(storage, task.parts(task_id)[table], task_id)

        with thread_pool(_READERS) as pool:
            return dict(zip(done, pool.imap(read, done), strict=True))
