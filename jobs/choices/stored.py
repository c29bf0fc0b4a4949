"""The stored rows of a choices sweep, as its summary takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from jobs.choices.output import ChoicesOutput
from jobs.choices.summary import Cell, FitRows
from jobs.scoring.choice_rows import scored_choices
from jobs.scoring.groups import Group
from jobs.scoring.rows import KL_FIELD
from jobs.scoring.stored import StoredTables
from jobs.scoring.tables import HELD_OUT, STEERED, is_steered_table, null_table, side_table


@dataclass(frozen=True)
class StoredRows:
    """The rows of an output; what is not complete yet is counted and left out."""

    output: ChoicesOutput

    @cached_property
    def tables(self) -> StoredTables:
        """The rows as they are stored."""
        return StoredTables(self.output)

    def sets(self) -> Iterator[FitRows]:
        """The rows of each set of vectors whose baseline is complete.

        Raises:
            CorruptPartError: a damaged part.
            UserError: the examples are lost.
        """
        for group in self.tables.groups:
            rows = self.tables.rows(group)
            if rows is None:
                continue
            baseline = scored_choices(rows, self.output.examples)
            for table in self._steered_tables(group):
                null = null_table(table)
                yield FitRows(
                    model=group.model,
                    fit=group.key[0],
                    vectors=self._vectors_of(table),
                    null=null.null if null else "",
                    draw=null.draw if null else 0,
                    baseline=baseline,
                    cells=self._cells(group, table, len(rows)),
                )

    def _vectors_of(self, table: str) -> str:
        null = null_table(table)
        if null is not None:
            return null.vectors
        return HELD_OUT if table == HELD_OUT else self.output.main_vectors

    def _steered_tables(self, group: Group) -> list[str]:
        tables = [
            table
            for table in self.tables.by_group[group]
            if is_steered_table(table) and side_table(table) is None
        ]
        return sorted(tables, key=lambda table: (table != STEERED, table != HELD_OUT, table))

    def _cells(self, group: Group, table: str, num_examples: int) -> Iterator[Cell]:
        for layer, coeff, dose, rows in self.tables.cells(group, table, num_examples):
            kl = rows[KL_FIELD.name].to_numpy() if KL_FIELD.name in rows.column_names else None
            yield layer, coeff, dose, scored_choices(rows, self.output.examples), kl
