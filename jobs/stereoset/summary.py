"""The tables of a summary, from what an output holds: of each steered cell, and of cells pooled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import pyarrow as pa

from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.stereoset.differences import (
    DIFFERENCES_SCHEMA,
    BetweenModels,
    Planned,
    differences,
)
from jobs.stereoset.doses import dose_rows
from jobs.stereoset.estimates import Row, Stacks, baseline_row, model_estimates
from jobs.stereoset.geometry import geometry
from jobs.stereoset.group_parts import PartsOfGroups
from jobs.stereoset.group_sums import added_up
from jobs.stereoset.inventory import Inventory
from jobs.stereoset.summary_keys import planned_keys
from jobs.stereoset.summary_tables import (
    BASELINE_SCHEMA,
    CELLS_SCHEMA,
    DOSE_RESPONSE_SCHEMA,
    FINDINGS_SCHEMA,
    HEADLINE_SCHEMA,
    NULLS_SCHEMA,
)
from jobs.stereoset.tables import steered_table
from steering_core.nulls import NULLS


@dataclass(frozen=True)
class Summary:
    """The tables of a summary, and what they could not cover.

    Attributes:
        cells: one row per (model, split, bias_type, layer, coeff).
        pooled: the same over bias types, splits and layers, if there are several and all of them
            are complete; ``split`` and ``bias_type`` are then ``all``, ``layer`` is null.
        headline: the averages of the paper's notebook, one row per (model, split, coeff).
        findings: simultaneous statements about the widest rows of each model.
        dose_response: shares of examples that follow the coefficient, by layer and pooled; empty
            if there is one coefficient, or if a coefficient is no multiple of a vector.
        differences: paired differences between models, and of fitted vectors from nulls.
        nulls: cells and pooled cells steered with vectors that mean nothing, named by ``null``.
        geometry: anisotropy of the pooled states, one row per (model, split, bias_type, layer)
            and pooled as ``pooled`` is.
        baseline: one row per (model, split, bias_type): the unsteered scores.
        num_missing: cells of a group that are planned and not complete.
        vectors: what steered: ``in_sample``, ``held_out`` or ``file``.
        has_intent: whether steering is meant to push from stereotype to anti-stereotype: it adds
            vectors that were fitted to that contrast.
    """

    cells: pa.Table
    pooled: pa.Table
    headline: pa.Table
    findings: pa.Table
    differences: pa.Table
    nulls: pa.Table
    geometry: pa.Table
    baseline: pa.Table
    dose_response: pa.Table
    num_missing: int
    vectors: str
    has_intent: bool


_OF_A_MODEL = ("cells", "pooled", "headline", "findings")
_SCHEMAS = {
    "cells": CELLS_SCHEMA,
    "pooled": CELLS_SCHEMA,
    "headline": HEADLINE_SCHEMA,
    "findings": FINDINGS_SCHEMA,
    "differences": DIFFERENCES_SCHEMA,
    "nulls": NULLS_SCHEMA,
    "baseline": BASELINE_SCHEMA,
    "dose_response": DOSE_RESPONSE_SCHEMA,
}


def summarise(storage: Storage, inventory: Inventory) -> Summary:
    """Estimates of every cell whose rows are complete (``steering_core.metrics`` defines them).

    One model at a time: only what is compared with the next ones is kept.
    """
    identity = (Ledger(storage).read_record() or {}).get("identity", {})
    sets = (None, *NULLS)
    planned = {null: planned_keys(inventory.planned, null) for null in sets}
    models = sorted({task.group.model for task in inventory.planned})
    index = PartsOfGroups(inventory)
    parts = {(m, null): index.of(m, steered_table(null)) for m in models for null in sets}
    tables = _Tables()
    between = BetweenModels(len(planned[None]))
    num_missing = 0
    with added_up(storage, [group for of_set in parts.values() for group in of_set]) as sums:
        for place, model in enumerate(models):
            fitted: tuple[Stacks, Planned] | None = None
            for rank, null in enumerate(sets):
                groups = list(islice(sums, len(parts[model, null])))
                if null is None:
                    rows = [{"model": model, **baseline_row(group)} for group in groups]
                    tables.add("baseline", rows, place)
                if (keys := planned[null].get(model)) is None:
                    continue
                found = model_estimates(
                    groups, keys, vectors=vectors_of(identity), has_direction=adds_vector(identity)
                )
                num_missing += sum(key.is_cell for key in keys) - len(found.cells)
                if null is None:
                    for name in _OF_A_MODEL:
                        rows = [{"model": model, **row} for row in getattr(found, name)]
                        tables.add(name, rows, place)
                    if adds_vector(identity):
                        rows = dose_rows(groups, keys, vectors_of(identity))
                        tables.add("dose_response", [{"model": model, **r} for r in rows], place)
                    for first, rows in between.add(model, found.stacks, keys):
                        tables.add("differences", rows, 0, first, place)
                    fitted = found.stacks, keys
                    continue
                rows = [*found.cells, *found.pooled]
                rows = [{"null": null, "model": model, **row} for row in rows]
                tables.add("nulls", rows, rank, place)
                if fitted is not None:
                    one, other = ("fitted", *fitted), (null, found.stacks, keys)
                    rows = list(differences("null", one, other, model=model))
                    tables.add("differences", rows, rank, place)
    return Summary(
        cells=tables.get("cells"),
        pooled=tables.get("pooled"),
        headline=tables.get("headline"),
        findings=tables.get("findings"),
        differences=tables.get("differences"),
        nulls=tables.get("nulls"),
        geometry=geometry(storage, inventory),
        baseline=tables.get("baseline"),
        dose_response=tables.get("dose_response"),
        num_missing=num_missing,
        vectors=vectors_of(identity),
        has_intent=adds_vector(identity) and vectors_of(identity) != "file",
    )


class _Tables:
    """Tables that grow by the rows of one model at a time.

    Rows become columns at once: as dicts, those of all models would take most of the memory.
    """

    def __init__(self) -> None:
        self._pieces: dict[str, dict[tuple[int, ...], pa.Table]] = {name: {} for name in _SCHEMAS}

    def add(self, name: str, rows: list[Row], *order: int) -> None:
        """Add rows to a table, before those of a higher ``order``."""
        if rows:
            self._pieces[name][order] = pa.Table.from_pylist(rows, schema=_SCHEMAS[name])

    def get(self, name: str) -> pa.Table:
        """A table, all of it."""
        pieces = [piece for _, piece in sorted(self._pieces[name].items(), key=itemgetter(0))]
        whole = pa.concat_tables([_SCHEMAS[name].empty_table(), *pieces])
        return whole.combine_chunks()


def vectors_of(identity: Mapping[str, object]) -> str:
    """What steered: vectors of the same rows, cross-fitted ones, or a file's."""
    if identity.get("vectors.file (content)"):
        return "file"
    return "in_sample" if identity.get("vectors.folds", 1) == 1 else "held_out"


def adds_vector(identity: Mapping[str, object]) -> bool:
    """Whether a coefficient is a multiple of a vector that is added."""
    return identity.get("steering.operation", "add") == "add"


def stacks_of(
    storage: Storage, inventory: Inventory, models: Sequence[str]
) -> Iterator[tuple[Stacks, Planned]]:
    """The sums of the fitted vectors' rows and the plan of each model, to compare runs by."""
    planned = planned_keys(inventory.planned)
    index = PartsOfGroups(inventory)
    parts = [index.of(model, steered_table()) for model in models]
    with added_up(storage, [group for of_model in parts for group in of_model]) as sums:
        for model, of_model in zip(models, parts, strict=True):
            yield Stacks(list(islice(sums, len(of_model)))), planned[model]
