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
from jobs.scoring.choice_rows import scored_choices
from jobs.scoring.groups import Group
from jobs.scoring.plan import PlannedTask, VectorSet
from jobs.scoring.rows import KL_FIELD
from jobs.scoring.sweep import main_vectors_of
from jobs.scoring.tables import HELD_OUT, STEERED, is_steered_table, null_table
from steering_core.datasets.base import ChoiceDataset, Contrast, Metric, ScoredChoices
from steering_core.datasets.frames import order_metrics
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
        # Asked of the spec: a group key of the user's own may be called "order", too.
        if self._spec.get("data", {}).get("candidate_orders", 1) > 1:
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
        for group in sorted(self._tasks):
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

    @cached_property
    def _tasks(self) -> Mapping[Group, Mapping[str, list[PlannedTask]]]:
        """Planned tasks by group and table, each list by shard.

        Found in one pass: with nulls there are hundreds of tables.
        """
        found: dict[Group, dict[str, list[PlannedTask]]] = {}
        for task in sorted(self.output.inventory.planned, key=lambda task: task.shard):
            of_group = found.setdefault(task.group, {})
            for table in task.tables:
                of_group.setdefault(table, []).append(task)
        return found

    def _steered_tables(self, group: Group) -> list[str]:
        tables = filter(is_steered_table, self._tasks[group])
        return sorted(tables, key=lambda table: (table != STEERED, table != HELD_OUT, table))

    def _baseline(self, group: Group) -> ScoredChoices | None:
        tasks = self._tasks[group]["baseline"]
        parts = self._read(tasks, "baseline")
        if len(parts) < len(tasks):
            return None
        return scored_choices(pa.concat_tables(parts.values()), self.output.examples)

    def _cells(self, group: Group, table: str) -> Iterator[Cell]:
        """Each cell that every shard has; the parts of a table are in memory together."""
        tasks = self._tasks[group][table]
        num_shards = len(self._tasks[group]["baseline"])
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
                scored = scored_choices(rows, self.output.examples)
                yield layer, coeff, vectors.dose(layer, coeff), scored, kl

    def _read(self, tasks: Sequence[PlannedTask], table: str) -> dict[PlannedTask, pa.Table]:
        """The parts of those tasks that are done, in the order of the tasks."""
        inventory, storage = self.output.inventory, self.output.storage
        done = [task for task in tasks if task.plan_id in inventory.done]

        def read(task: PlannedTask) -> pa.Table:
            task_id = inventory.task_ids[task.plan_id]
            return read_part(storage, task.parts(task_id)[table], task_id)

        with thread_pool(_READERS) as pool:
            return dict(zip(done, pool.imap(read, done), strict=True))
