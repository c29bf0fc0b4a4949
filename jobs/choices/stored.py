"""The stored rows of a choices sweep, as its summary takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from cluster.parts import read_part
from cluster.threads import thread_pool
from jobs.choices.output import ChoicesOutput
from jobs.choices.summary import Cell, FitRows
from jobs.choices.tables import scored_choices
from jobs.scoring.groups import Group
from jobs.scoring.plan import PlannedTask, VectorSet
from jobs.scoring.rows import KL_FIELD
from jobs.scoring.sweep import main_vectors_of
from jobs.scoring.tables import HELD_OUT, STEERED, null_table
from steering_core.datasets.base import (
    ChoiceDataset,
    ChoiceExample,
    Contrast,
    Metric,
    ScoredChoices,
)
from steering_core.datasets.frames import ORDER, order_metrics
from steering_core.datasets.registry import DATASETS

_READERS = 8


@dataclass(frozen=True)
class StoredRows:
    """The rows of an output; what is not complete yet is counted and left out."""

    output: ChoicesOutput

    @cached_property
    def contrast(self) -> Contrast | None:
        """What the sweep's vectors tell apart."""
        told = self._spec.get("contrast", {})
        if not (told.get("positive") and told.get("negative")):
            return None
        return Contrast(*(tuple(told[key] or ()) for key in ("positive", "negative", "by")))

    @cached_property
    def metrics(self) -> list[Metric]:
        """What is measured of the rows: the data set's metrics, and those of orders."""
        examples = self.output.examples.values()
        labels = dict.fromkeys(label for e in examples for label in e.labels)
        found = [*self.dataset.metrics(tuple(labels))]
        if any(e.group_value(ORDER) not in (None, "0") for e in examples):
            found += order_metrics(max(len(e.candidates) for e in examples))
        return found

    @property
    def main_vectors(self) -> str:
        """What steered the main rows: ``in_sample``, ``held_out`` or ``file``."""
        return main_vectors_of((self.output.record or {}).get("identity", {}))

    @property
    def num_planned(self) -> int:
        """Rows that are planned."""
        return sum(task.num_rows_cells for task in self.output.inventory.planned)

    @property
    def num_missing(self) -> int:
        """Rows that are planned and not there."""
        return self.num_planned - self.output.inventory.num_rows_done

    def sets(self) -> Iterator[FitRows]:
        """The rows of each set of vectors whose baseline is complete.

        Raises:
            CorruptPartError: a damaged part.
            UserError: the examples are lost.
        """
        for group in sorted({task.group for task in self.output.inventory.planned}):
            baseline = self._baseline(group)
            if baseline is None:
                continue
            for table in self._steered_tables(group):
                null = null_table(table)
                yield FitRows(
                    model=group.model,
                    fit=group.key[0],
                    vectors=self._vectors_of(table),
                    null=null.null if null else "",
                    draw=null.draw if null else 0,
                    baseline=baseline,
                    cells=self._cells(group, table),
                )

    @property
    def dataset(self) -> ChoiceDataset:
        """What the labels mean; if ``run.json`` is lost, only that they are labels is known."""
        return DATASETS[self._spec.get("data", {}).get("format") or "choices"]

    @property
    def _spec(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = (self.output.record or {}).get("spec", {})
        return spec

    def _vectors_of(self, table: str) -> str:
        null = null_table(table)
        if null is not None:
            return null.vectors
        return HELD_OUT if table == HELD_OUT else self.main_vectors

    def _tasks(self, group: Group, table: str) -> list[PlannedTask]:
        """Planned tasks of a group that leave a table, by shard."""
        tasks = [
            task
            for task in self.output.inventory.planned
            if task.group == group and table in task.tables
        ]
        return sorted(tasks, key=lambda task: task.shard)

    def _steered_tables(self, group: Group) -> list[str]:
        tables = {
            table: None
            for task in self.output.inventory.planned
            if task.group == group and task.is_steered
            for table in task.tables
        }
        return sorted(tables, key=lambda table: (table != STEERED, table != HELD_OUT, table))

    def _baseline(self, group: Group) -> ScoredChoices | None:
        tasks = self._tasks(group, "baseline")
        parts = self._read(tasks, "baseline")
        if len(parts) < len(tasks):
            return None
        return self._scored(pa.concat_tables(parts.values()))

    def _cells(self, group: Group, table: str) -> Iterator[Cell]:
        """Each cell that every shard has; the parts of a table are in memory together."""
        tasks = self._tasks(group, table)
        num_shards = len({task.shard for task in self._tasks(group, "baseline")})
        shards: dict[tuple[int, float], list[pa.Table]] = {}
        for task, part in self._read(tasks, table).items():
            num = len(task.example_ids)
            for at, cell in enumerate(task.typed_cells()):
                shards.setdefault((cell.layer, cell.coeff), []).append(part.slice(at * num, num))
        vectors = self.output.inventory.vectors[VectorSet(group, table)]
        for (layer, coeff), tables in sorted(shards.items()):
            if len(tables) == num_shards:
                rows = pa.concat_tables(tables)
                kl = None
                if KL_FIELD.name in rows.column_names:
                    kl = rows[KL_FIELD.name].to_numpy()
                yield layer, coeff, vectors.dose(layer, coeff), self._scored(rows), kl

    def _read(self, tasks: Sequence[PlannedTask], table: str) -> dict[PlannedTask, pa.Table]:
        """The parts of those tasks that are done, in the order of the tasks."""
        inventory, storage = self.output.inventory, self.output.storage
        done = [task for task in tasks if task.plan_id in inventory.done]

        def read(task: PlannedTask) -> pa.Table:
            task_id = inventory.task_ids[task.plan_id]
            return read_part(storage, task.parts(task_id)[table], task_id)

        with thread_pool(_READERS) as pool:
            return dict(zip(done, pool.imap(read, done), strict=True))

    def _scored(self, rows: pa.Table) -> ScoredChoices:
        return scored_choices(rows, self._examples)

    @property
    def _examples(self) -> Mapping[str, ChoiceExample]:
        return self.output.examples
