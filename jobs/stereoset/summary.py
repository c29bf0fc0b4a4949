"""The tables of a summary, from what an output holds: of each steered cell, and of cells pooled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.stereoset.differences import (
    DIFFERENCES_SCHEMA,
    Planned,
    between_models,
    differences,
)
from jobs.stereoset.estimates import Row, Stacks, baseline_row, model_estimates
from jobs.stereoset.geometry import geometry
from jobs.stereoset.inventory import Inventory
from jobs.stereoset.plan import Group
from jobs.stereoset.scored_rows import baseline_shards, steered_rows
from jobs.stereoset.summary_keys import planned_keys
from jobs.stereoset.summary_sums import GroupSums
from jobs.stereoset.summary_tables import (
    BASELINE_SCHEMA,
    CELLS_SCHEMA,
    FINDINGS_SCHEMA,
    HEADLINE_SCHEMA,
    NULLS_SCHEMA,
)
from steering_core.nulls import NULLS, Null


@dataclass(frozen=True)
class Summary:
    """The tables of a summary, and what they could not cover.

    Attributes:
        cells: one row per (model, split, bias_type, layer, coeff).
        pooled: the same over bias types, splits and layers, if there are several and all of them
            are complete; ``split`` and ``bias_type`` are then ``all``, ``layer`` is null.
        headline: the averages of the paper's notebook, one row per (model, split, coeff).
        findings: simultaneous statements about the widest rows of each model.
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
    num_missing: int
    vectors: str
    has_intent: bool


_OF_A_MODEL = ("cells", "pooled", "headline", "findings")


def summarise(storage: Storage, inventory: Inventory) -> Summary:
    """Estimates of every cell whose rows are complete (``steering_core.metrics`` defines them)."""
    identity = (Ledger(storage).read_record() or {}).get("identity", {})
    sums = {null: _sums(storage, inventory, null) for null in (None, *NULLS)}
    tables: dict[str, list[Row]] = {n: [] for n in (*_OF_A_MODEL, "nulls", "differences")}
    sides: dict[Null | None, dict[str, tuple[Stacks, Planned]]] = {}
    num_missing = 0
    for null, of_models in sums.items():
        planned = planned_keys(inventory.planned, null)
        for model, keys in planned.items():
            found = model_estimates(
                of_models.get(model, []),
                keys,
                vectors=vectors_of(identity),
                has_direction=adds_vector(identity),
            )
            sides.setdefault(null, {})[model] = found.stacks, keys
            num_missing += sum(key.is_cell for key in keys) - len(found.cells)
            if null is not None:
                rows = [*found.cells, *found.pooled]
                tables["nulls"] += [{"null": null, "model": model, **row} for row in rows]
                continue
            for name in _OF_A_MODEL:
                tables[name] += [{"model": model, **row} for row in getattr(found, name)]
    fitted = sides.get(None, {})
    tables["differences"] += between_models(fitted)
    for null in NULLS:
        for model, of_null in sides.get(null, {}).items():
            one, other = ("fitted", *fitted[model]), (null, *of_null)
            tables["differences"] += differences("null", one, other, model=model)
    baseline = [
        {"model": model, **baseline_row(group)}
        for model, groups in sums[None].items()
        for group in groups
    ]
    return Summary(
        cells=pa.Table.from_pylist(tables["cells"], schema=CELLS_SCHEMA),
        pooled=pa.Table.from_pylist(tables["pooled"], schema=CELLS_SCHEMA),
        headline=pa.Table.from_pylist(tables["headline"], schema=HEADLINE_SCHEMA),
        findings=pa.Table.from_pylist(tables["findings"], schema=FINDINGS_SCHEMA),
        differences=pa.Table.from_pylist(tables["differences"], schema=DIFFERENCES_SCHEMA),
        nulls=pa.Table.from_pylist(tables["nulls"], schema=NULLS_SCHEMA),
        geometry=geometry(storage, inventory),
        baseline=pa.Table.from_pylist(baseline, schema=BASELINE_SCHEMA),
        num_missing=num_missing,
        vectors=vectors_of(identity),
        has_intent=adds_vector(identity) and vectors_of(identity) != "file",
    )


def vectors_of(identity: Mapping[str, object]) -> str:
    """What steered: vectors of the same rows, cross-fitted ones, or a file's."""
    if identity.get("vectors.file (content)"):
        return "file"
    return "in_sample" if identity.get("vectors.folds", 1) == 1 else "held_out"


def adds_vector(identity: Mapping[str, object]) -> bool:
    """Whether a coefficient is a multiple of a vector that is added."""
    return identity.get("steering.operation", "add") == "add"


def _sums(storage: Storage, inventory: Inventory, null: Null | None) -> dict[str, list[GroupSums]]:
    """Sums of each group whose baseline is complete, by model."""
    planned: set[Group] = {
        task.group for task in inventory.planned if null is None or task.vector_set.null == null
    }
    sums: dict[str, list[GroupSums]] = {}
    for group in sorted(planned):
        shards = baseline_shards(storage, inventory, group)
        if shards is None:
            continue
        steered = steered_rows(storage, inventory, group, shards, null)
        rows = [shards[shard] for shard in sorted(shards)]
        of_group = GroupSums.of_rows(group.split, group.bias_type, rows, steered)
        sums.setdefault(group.model, []).append(of_group)
    return sums


def stacks_of(storage: Storage, inventory: Inventory) -> dict[str, tuple[Stacks, Planned]]:
    """By model, the sums of the fitted vectors' rows and the plan, to compare with another run."""
    sums = _sums(storage, inventory, None)
    planned = planned_keys(inventory.planned)
    return {model: (Stacks(sums.get(model, [])), keys) for model, keys in planned.items()}
