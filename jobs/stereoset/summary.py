"""The tables of a summary, from what an output holds: of each steered cell, and of cells pooled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any

import pyarrow as pa

from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.scoring.inventory import Inventory
from jobs.scoring.sweep import adds_vector, main_vectors_of
from jobs.scoring.tables import HELD_OUT, STEERED, NullTable, null_table
from jobs.stereoset.differences import (
    DIFFERENCES_SCHEMA,
    BetweenModels,
    Planned,
    differences,
)
from jobs.stereoset.doses import dose_rows
from jobs.stereoset.estimates import (
    ModelEstimates,
    Row,
    Stacks,
    baseline_row,
    model_estimates,
)
from jobs.stereoset.geometry import geometry
from jobs.stereoset.group_parts import PartsOfGroups
from jobs.stereoset.group_sums import added_up
from jobs.stereoset.groups import place_of
from jobs.stereoset.null_tests import NULL_TESTS_SCHEMA, null_tests
from jobs.stereoset.push import add_doses
from jobs.stereoset.summary_keys import AXES, SummaryKey, is_cell, planned_keys
from jobs.stereoset.summary_sums import GroupSums
from jobs.stereoset.summary_tables import (
    BASELINE_SCHEMA,
    DOSE_RESPONSE_SCHEMA,
    FINDINGS_SCHEMA,
    HEADLINE_SCHEMA,
    cells_schema,
    nulls_schema,
)
from steering_core.nulls import OLD_LABEL_SEED, draw_seed
from steering_core.stats.ranks import stand_for
from steering_core.vectors import SteeringVectors, Unit


@dataclass(frozen=True)
class Summary:
    """The tables of a summary, and what they could not cover.

    Attributes:
        cells: one row per (model, split, bias_type, layer, coeff).
        pooled: the same over bias types, splits and layers, if there are several and all of them
            are complete; ``split`` and ``bias_type`` are then ``all``, ``layer`` is null.
        headline: the averages of the paper's notebook, one row per (model, split, coeff).
        held_out, held_out_pooled: the columns of ``cells`` and ``pooled``, of the rows that are
            steered with held-out vectors beside in-sample ones; no rows if there are none.
        findings: simultaneous statements about the widest rows of each model, of held-out ones if
            the model has them.
        dose_response: shares of examples that follow the coefficient, by layer and pooled; empty
            if there is one coefficient, or if a coefficient is no multiple of a vector.
        differences: paired differences between models, of in-sample from held-out vectors, and of
            fitted vectors from the first draw of each null.
        nulls: cells and pooled cells steered with vectors that mean nothing, named by ``null``,
            ``vectors`` and ``draw``. Draws of shuffled labels are read under their own labels.
        null_tests: ranks of the fitted vectors' effects among those of the draws.
        geometry: anisotropy of the pooled states, one row per (model, split, bias_type, layer)
            and pooled as ``pooled`` is.
        baseline: one row per (model, split, bias_type): the unsteered scores.
        num_missing: cells of a group that are planned and not complete.
        vectors: what steered the main rows: ``in_sample``, ``held_out`` or ``file``.
        has_intent: whether steering is meant to push from stereotype to anti-stereotype: it adds
            vectors that were fitted to that contrast.
        unit: what coefficients multiply, if a vector is added.
    """

    cells: pa.Table
    pooled: pa.Table
    held_out: pa.Table
    held_out_pooled: pa.Table
    headline: pa.Table
    findings: pa.Table
    differences: pa.Table
    nulls: pa.Table
    null_tests: pa.Table
    geometry: pa.Table
    baseline: pa.Table
    dose_response: pa.Table
    num_missing: int
    vectors: str
    has_intent: bool
    unit: Unit = "vector"

    @property
    def shown_vectors(self) -> str:
        """The vectors that findings and figures are about: held-out ones if there are any."""
        return "held_out" if self.held_out.num_rows else self.vectors

    @property
    def shown_cells(self) -> pa.Table:
        """The cells of ``shown_vectors``."""
        return self.held_out if self.held_out.num_rows else self.cells

    @property
    def shown_pooled(self) -> pa.Table:
        """The pooled cells of ``shown_vectors``."""
        return self.held_out_pooled if self.held_out.num_rows else self.pooled

    @property
    def num_complete(self) -> int:
        """Cells that are complete, of all vectors: ``num_missing`` counts the others."""
        of_nulls = [row for row in self.nulls.select(AXES).to_pylist() if is_cell(row)]
        return int(self.cells.num_rows + self.held_out.num_rows) + len(of_nulls)

    def nulls_of(self, vectors: str) -> list[Row]:
        """Rows of ``nulls`` that stand for these vectors."""
        rows = self.nulls.to_pylist()
        chosen = stand_for(vectors, {(row["null"], row["vectors"]): None for row in rows})
        return [row for row in rows if chosen.get(row["null"], vectors) == row["vectors"]]

    @property
    def by_vectors(self) -> dict[str, list[Row]]:
        """Rows of ``pooled`` and ``cells`` by the vectors that steered them, main ones first."""
        rows = {self.vectors: [*self.pooled.to_pylist(), *self.cells.to_pylist()]}
        if self.held_out.num_rows:
            rows["held_out"] = [*self.held_out_pooled.to_pylist(), *self.held_out.to_pylist()]
        return rows


def _schemas() -> dict[str, pa.Schema]:
    """The tables that are made model by model."""
    cells = cells_schema()
    return {
        "held_out": cells,
        "held_out_pooled": cells,
        "null_tests": NULL_TESTS_SCHEMA,
        "cells": cells,
        "pooled": cells,
        "headline": HEADLINE_SCHEMA,
        "findings": FINDINGS_SCHEMA,
        "differences": DIFFERENCES_SCHEMA,
        "nulls": nulls_schema(),
        "baseline": BASELINE_SCHEMA,
        "dose_response": DOSE_RESPONSE_SCHEMA,
    }


def summarise(storage: Storage, inventory: Inventory) -> Summary:
    """Estimates of every cell whose rows are complete (``steering_core.quantities`` names them).

    One model at a time: only what is compared with the next ones is kept.
    """
    identity = (Ledger(storage).read_record() or {}).get("identity", {})
    nulls = _null_tables(inventory)
    steered = (STEERED, *([HELD_OUT] if _is_planned(inventory, HELD_OUT) else []), *nulls)
    planned = {table: planned_keys(inventory.of_own_data, table) for table in steered}
    models = sorted({task.group.model for task in inventory.of_own_data})
    index = PartsOfGroups(inventory)
    parts = {
        (model, table): index.of(model, table, _label_seed(nulls.get(table), identity))
        for model in models
        for table in steered
    }
    tables = _Tables()
    between = BetweenModels(len(planned[STEERED]))
    num_missing = 0
    with added_up(storage, [group for of_set in parts.values() for group in of_set]) as sums:
        for place, model in enumerate(models):
            of_model = _ModelTables(model, place, tables, between, identity)
            for rank, table in enumerate(steered):
                groups = list(islice(sums, len(parts[model, table])))
                if table == STEERED:
                    of_model.add_baseline(groups)
                if (keys := planned[table].get(model)) is not None:
                    num_missing += of_model.add(
                        table,
                        nulls.get(table),
                        groups,
                        keys,
                        rank,
                        _vectors(inventory, model, table),
                    )
            of_model.finish()
    made = {name: tables.get(name) for name in tables.schemas}
    return Summary(
        **made,
        geometry=geometry(storage, inventory),
        num_missing=num_missing,
        vectors=main_vectors_of(identity),
        has_intent=adds_vector(identity) and main_vectors_of(identity) != "file",
        unit=identity.get("steering.unit", "vector"),
    )


def _vectors(
    inventory: Inventory, model: str, table: str
) -> dict[tuple[str, str], SteeringVectors]:
    """The vectors that steered a table's rows of a model, by split and bias type."""
    return {
        place_of(of.group): vectors
        for of, vectors in inventory.vectors.items()
        if (of.group.model, of.table) == (model, table)
    }


def _is_planned(inventory: Inventory, table: str) -> bool:
    return any(table in task.tables for task in inventory.of_own_data)


def _null_tables(inventory: Inventory) -> dict[str, NullTable]:
    """Tables of the draws of nulls, in order."""
    named = {table for task in inventory.of_own_data for table in task.tables}
    found = sorted((null, table) for table in named if (null := null_table(table)) is not None)
    return {table: null for null, table in found}


def _label_seed(null: NullTable | None, identity: Mapping[str, Any]) -> str | None:
    """The labels under which the rows of a table are read; None: the true ones."""
    if null is None or null.null != "shuffled":
        return None
    # An output that has lost its run.json is read as if it had the default seed.
    seed = identity.get("data.seed", 0)
    return OLD_LABEL_SEED if null.is_old else draw_seed("shuffled", seed, null.draw)


class _ModelTables:
    """Makes the rows of one model, set of vectors by set of vectors."""

    def __init__(
        self,
        model: str,
        place: int,
        tables: _Tables,
        between: BetweenModels,
        identity: Mapping[str, Any],
    ) -> None:
        self._model, self._place = model, place
        self._tables, self._between, self._identity = tables, between, identity
        self._main = main_vectors_of(identity)
        self._sides: dict[str, tuple[str, Stacks, Planned]] = {}
        self._rows: dict[str, list[Row]] = {}
        self._draws: list[Row] = []
        self._findings: list[Row] = []

    def add_baseline(self, groups: Sequence[GroupSums]) -> None:
        """The unsteered rows."""
        self._tables.add(
            "baseline", self._named(baseline_row(group) for group in groups), self._place
        )

    def add(
        self,
        table: str,
        null: NullTable | None,
        groups: Sequence[GroupSums],
        keys: Planned,
        rank: int,
        steered_with: Mapping[tuple[str, str], SteeringVectors],
    ) -> int:
        """The rows of one set of vectors; returns how many planned cells are not complete."""
        vectors = self._main if table == STEERED else table
        found = model_estimates(
            groups,
            keys,
            vectors=vectors,
            has_direction=adds_vector(self._identity),
            is_tested=null is None or null.draw == 0,
        )
        if adds_vector(self._identity):
            add_doses(found.cells, found.pooled, steered_with)
        if null is None:
            self._add_fitted(table, vectors, found, keys)
            if adds_vector(self._identity):
                rows = self._named(dose_rows(groups, keys, vectors))
                self._tables.add("dose_response", rows, self._place, rank)
        else:
            self._add_draw(null, found, keys, rank)
        return sum(key.is_cell for key in keys) - len(found.cells)

    def _add_fitted(self, table: str, vectors: str, found: ModelEstimates, keys: Planned) -> None:
        cells, pooled = self._named(found.cells), self._named(found.pooled)
        names = ("cells", "pooled") if table == STEERED else ("held_out", "held_out_pooled")
        for name, rows in zip(names, (cells, pooled), strict=True):
            self._tables.add(name, rows, self._place)
        rank = int(table != STEERED)
        self._tables.add("headline", self._named(found.headline), self._place, rank)
        # Held-out rows come second, and findings are made from them.
        self._findings = self._named(found.findings) or self._findings
        self._rows[vectors] = [*cells, *pooled]
        self._sides[vectors] = (vectors, found.stacks, keys)
        if table == STEERED:
            for first, rows in self._between.add(self._model, found.stacks, keys):
                self._tables.add("differences", rows, 0, first, self._place)
        else:
            a, b = self._sides[self._main], self._sides[vectors]
            rows = list(differences("held_out", a, b, model=self._model))
            self._tables.add("differences", rows, 1, self._place)

    def _add_draw(self, null: NullTable, found: ModelEstimates, keys: Planned, rank: int) -> None:
        of = {"null": null.null, "vectors": null.vectors or None, "draw": null.draw}
        rows = [{**of, **row} for row in self._named([*found.cells, *found.pooled])]
        self._tables.add("nulls", rows, rank, self._place)
        fitted = self._sides.get(null.vectors or self._main)
        # Nulls of some layers or coefficients are pooled over fewer cells: these say nothing of
        # what the fitted vectors do over all.
        planned: Planned = {} if fitted is None else fitted[2]
        self._draws += [row for row in rows if planned.get(at := _key(row)) == keys[at]]
        if fitted is not None and null.draw == 0:
            one, other = ("fitted", *fitted[1:]), (null.null, found.stacks, keys)
            rows = list(differences("null", one, other, model=self._model))
            self._tables.add("differences", rows, 1 + rank, self._place)

    def finish(self) -> None:
        """What needs every set."""
        self._tables.add("findings", self._findings, self._place)
        has_intent = adds_vector(self._identity) and self._main != "file"
        tests = null_tests(self._rows, self._draws, has_intent=has_intent)
        self._tables.add("null_tests", list(tests), self._place)

    def _named(self, rows: Iterable[Row]) -> list[Row]:
        return [{"model": self._model, **row} for row in rows]


def _key(row: Row) -> SummaryKey:
    return SummaryKey(*(row[name] for name in SummaryKey._fields))


class _Tables:
    """Tables that grow by the rows of one model at a time.

    Rows become columns at once: as dicts, those of all models would take most of the memory.
    """

    def __init__(self) -> None:
        self.schemas = _schemas()
        self._pieces: dict[str, dict[tuple[int, ...], pa.Table]] = {
            name: {} for name in self.schemas
        }

    def add(self, name: str, rows: list[Row], *order: int) -> None:
        """Add rows to a table, before those of a higher ``order``."""
        if rows:
            self._pieces[name][order] = pa.Table.from_pylist(rows, schema=self.schemas[name])

    def get(self, name: str) -> pa.Table:
        """A table, all of it."""
        pieces = [piece for _, piece in sorted(self._pieces[name].items(), key=itemgetter(0))]
        whole = pa.concat_tables([self.schemas[name].empty_table(), *pieces])
        return whole.combine_chunks()


def stacks_of(
    storage: Storage, inventory: Inventory, models: Sequence[str]
) -> Iterator[tuple[Stacks, Planned]]:
    """The sums of the fitted vectors' rows and the plan of each model, to compare runs by."""
    planned = planned_keys(inventory.of_own_data)
    index = PartsOfGroups(inventory)
    parts = [index.of(model, STEERED) for model in models]
    with added_up(storage, [group for of_model in parts for group in of_model]) as sums:
        for model, of_model in zip(models, parts, strict=True):
            yield Stacks(list(islice(sums, len(of_model)))), planned[model]
