"""The stored rows of a sweep as its summary of side effects takes them.

own data      baseline, steered and held-out rows of each group
transfer      rows of one group under the vectors of another
other data    rows of a data set, unsteered and under each group's vectors
prompts       rows of own and other data under each prompt
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa

from jobs.data_source import DataSource
from jobs.examples_file import read_examples
from jobs.scoring.choice_rows import examples_of, scored_choices
from jobs.scoring.groups import Group
from jobs.scoring.measured import texts_key
from jobs.scoring.output import ScoredOutput
from jobs.scoring.stored import RowsOutput, StoredTables
from jobs.scoring.sweep import adds_vector
from jobs.scoring.tables import HELD_OUT, STEERED, SideTable, null_table, side_table
from jobs.side_effects.rows import OWN, Kind, Measured, MeasuredCell
from steering_core.datasets.base import ChoiceDataset, ChoiceExample, Metric, ScoredChoices
from steering_core.datasets.registry import DATASETS
from steersweep.errors import UserError

Scored = Callable[[pa.Table], ScoredChoices]
"""Stored rows as metrics take them."""


class OwnData(ABC):
    """What a job's own rows are, for metrics."""

    @abstractmethod
    def scored(self, group: Group) -> Scored:
        """What makes scores of a group's rows."""

    @abstractmethod
    def metrics(self) -> Sequence[Metric]:
        """What is measured, the target included."""

    @abstractmethod
    def texts(self) -> pa.Table:
        """``examples.parquet``; UserError if it is lost."""

    @abstractmethod
    def target(self) -> str:
        """Key of the metric that steering is meant to raise; empty if it intends nothing."""


@dataclass(frozen=True)
class _Set:
    """A data set of the output."""

    name: str
    dataset: ChoiceDataset
    examples: Mapping[str, ChoiceExample]

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        return self.dataset.metrics(self._labels)

    @property
    def kind(self) -> Kind:
        return self.dataset.purpose_of(self._labels)

    @cached_property
    def _labels(self) -> tuple[str, ...]:
        labels = (label for example in self.examples.values() for label in example.labels)
        return tuple(dict.fromkeys(labels))

    def scored(self, rows: pa.Table) -> ScoredChoices:
        return scored_choices(rows, self.examples)


class MeasuredOutput(RowsOutput, Protocol):
    """An output that holds rows of data sets under its vectors."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The recorded spec; empty if ``run.json`` is lost."""

    def vectors_elsewhere(self, group: Group) -> str:
        """What steers data that a group's vectors were not fitted to: ``in_sample`` or ``file``."""


@dataclass(frozen=True)
class StoredSets:
    """The rows of an output that say what steering moved on data sets of ``side_effects``."""

    output: MeasuredOutput

    @cached_property
    def has_any(self) -> bool:
        """Whether the output measures side effects at all."""
        return any(side_table(task.tables[0]) for task in self.output.inventory.planned)

    def measured(self) -> Iterator[Measured]:
        """The rows of every vector and prompt on every data set whose unsteered rows are complete.

        Raises:
            CorruptPartError: a damaged part.
            UserError: the texts of a data set are lost.
        """
        for of_set in self._sets:
            yield from self._of_set(of_set)

    @property
    def num_rows(self) -> int:
        """Finished rows that ``measured`` reads: all but those of nulls."""
        done = self.output.inventory.tasks_done()
        return sum(
            task.num_rows_cells
            for task in done
            if not any(null_table(table) for table in task.tables)
        )

    @property
    def sources(self) -> list[DataSource]:
        """Where the texts of all data come from."""
        return [DataSource.of(self._texts(name)) for name in self._set_names]

    @cached_property
    def _tables(self) -> StoredTables:
        return StoredTables(self.output)

    def _of_set(self, of_set: _Set) -> Iterator[Measured]:
        unsteered = str(SideTable(of_set.name))
        for whole in [g for g, tables in self._tables.by_group.items() if unsteered in tables]:
            rows = self._tables.rows(whole, unsteered)
            if rows is None:
                continue
            baseline = of_set.scored(rows)
            groups = [group for group in self._tables.groups if group.model == whole.model]
            table = str(SideTable(of_set.name, is_steered=True))
            for group in groups:
                cells = self._cells(group, table, of_set.scored, baseline)
                vectors = self.output.vectors_elsewhere(group)
                yield self._other(of_set, group, baseline, cells, vectors)
            for prompt in self._prompts(whole):
                named = str(SideTable(of_set.name, prompt=prompt))
                prompted = self._tables.rows(whole, named)
                if prompted is None:
                    continue
                cell = MeasuredCell(None, None, None, of_set.scored(prompted))
                # A prompt has the same side effects whichever group it is compared on.
                for group in groups:
                    yield self._other(of_set, group, baseline, iter([cell]), "", prompt)

    def _other(
        self,
        of_set: _Set,
        group: Group,
        baseline: ScoredChoices,
        cells: Iterator[MeasuredCell],
        vectors: str,
        prompt: str = "",
    ) -> Measured:
        return Measured(
            model=group.model,
            place=dict(group.place),
            prompt=prompt,
            vectors=vectors,
            set=of_set.name,
            kind=of_set.kind,
            group="",
            metrics=of_set.metrics,
            target="",
            baseline=baseline,
            cells=cells,
            examples=of_set.name,
        )

    def _cells(
        self, group: Group, table: str, scored: Scored, baseline: ScoredChoices
    ) -> Iterator[MeasuredCell]:
        for cell in self._tables.cells(group, table, len(baseline.examples)):
            yield MeasuredCell(cell.layer, cell.coeff, cell.dose, scored(cell.rows))

    def _prompts(self, group: Group) -> list[str]:
        """Prompts that rows of a group were scored under."""
        sides = (side_table(table) for table in self._tables.by_group[group])
        return list(dict.fromkeys(side.prompt for side in sides if side and side.prompt))

    @cached_property
    def _set_names(self) -> list[str]:
        sides = (side_table(table) for tables in self._tables.by_group.values() for table in tables)
        return sorted({side.set for side in sides if side and side.set})

    @cached_property
    def _sets(self) -> list[_Set]:
        formats = self.output.spec.get("side_effects", {})
        return [
            _Set(
                name,
                DATASETS[formats.get(name, {}).get("format") or "choices"],
                examples_of(self._texts(name)),
            )
            for name in self._set_names
        ]

    def _texts(self, name: str) -> pa.Table:
        storage = self.output.storage
        texts = read_examples(storage, texts_key(name))
        if texts is None:
            raise UserError(
                f"{storage.uri} has no readable {texts_key(name)}; the same `steersweep run` "
                "writes it again"
            )
        return texts


@dataclass(frozen=True)
class StoredSideEffects(StoredSets):
    """The same of a sweep that has data of its own, whose rows come first."""

    output: ScoredOutput
    own: OwnData

    def measured(self) -> Iterator[Measured]:
        """See ``StoredSets``; also the sweep's own data, and transfer between its groups."""
        for group in self._tables.groups:
            baseline = self._own_baselines.get(group)
            if baseline is not None:
                yield from self._of_own_data(group, baseline)
                yield from self._transferred(group)
        yield from super().measured()

    @property
    def sources(self) -> list[DataSource]:
        """See ``StoredSets``."""
        return [DataSource.of(self.own.texts()), *super().sources]

    @cached_property
    def _own_baselines(self) -> dict[Group, ScoredChoices]:
        """Unsteered scores of the groups that are complete."""
        found = {group: self._tables.rows(group) for group in self._tables.groups}
        return {g: self.own.scored(g)(rows) for g, rows in found.items() if rows is not None}

    def _of_own_data(self, group: Group, baseline: ScoredChoices) -> Iterator[Measured]:
        scored = self.own.scored(group)
        vectors = {STEERED: self.output.main_vectors, HELD_OUT: HELD_OUT}
        for table, name in vectors.items():
            if table in self._tables.by_group[group]:
                cells = self._cells(group, table, scored, baseline)
                yield self._own(group, group, baseline, cells, name)
        for prompt in self._prompts(group):
            rows = self._tables.rows(group, str(SideTable(prompt=prompt)))
            if rows is not None:
                cells = iter([MeasuredCell(None, None, None, scored(rows))])
                yield self._own(group, group, baseline, cells, "", prompt=prompt)

    def _transferred(self, group: Group) -> Iterator[Measured]:
        for other, baseline in self._own_baselines.items():
            table = str(SideTable(of=other.place, is_steered=True))
            if table in self._tables.by_group[group]:
                cells = self._cells(group, table, self.own.scored(other), baseline)
                vectors = self.output.vectors_elsewhere(group)
                yield self._own(group, other, baseline, cells, vectors)

    def _own(
        self,
        group: Group,
        of: Group,
        baseline: ScoredChoices,
        cells: Iterator[MeasuredCell],
        vectors: str,
        prompt: str = "",
    ) -> Measured:
        """Rows of the sweep's own data: those of group ``of`` under the vectors of ``group``."""
        is_own = group == of
        name = "/".join(of.key)
        return Measured(
            model=group.model,
            place=dict(group.place),
            prompt=prompt,
            vectors=vectors,
            set=OWN,
            kind="own" if is_own else "transfer",
            group="" if is_own else name,
            metrics=self.own.metrics(),
            target=self.own.target() if is_own else "",
            baseline=baseline,
            cells=cells,
            examples=f"{OWN}/{name}",
        )


def has_intent(output: ScoredOutput) -> bool:
    """Whether a positive coefficient is meant to raise the target: it adds a fitted vector."""
    identity = (output.record or {}).get("identity", {})
    return adds_vector(identity) and output.main_vectors != "file"
