"""Estimates with intervals and tests: of each steered cell, and of cells pooled.

Every sum is kept of all examples and of each resample, in which all cells of a group count the same
examples equally often. Pooling adds sums, so a pooled interval resamples within its groups. For
StereoSet's metrics the unit is the target term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.storage import Storage
from jobs.stereoset.geometry import geometry
from jobs.stereoset.inventory import Inventory
from jobs.stereoset.scored_rows import GroupRows, complete_groups
from jobs.stereoset.summary_keys import SummaryKey, planned_keys
from jobs.stereoset.summary_sums import CellSums, ModelSums, TermSums, examples_drawn, terms_drawn
from jobs.stereoset.summary_tables import (
    BASELINE_SCHEMA,
    CELLS_SCHEMA,
    NULLS_SCHEMA,
    SHARES,
    TESTED,
)
from steering_core.metrics import CHANGES, EXAMPLE_SUMS, estimates, stereoset_estimates, term_counts
from steering_core.nulls import NULLS, Null
from steering_core.resampling import benjamini_hochberg, interval, mcnemar


@dataclass(frozen=True)
class Summary:
    """The tables of a summary, and what they could not cover.

    Attributes:
        cells: one row per (model, split, bias_type, layer, coeff).
        pooled: the same over bias types, splits and layers, where there are several and all of
            them are complete; ``split`` and ``bias_type`` are then ``all``, ``layer`` is null.
        nulls: both of these steered with vectors that mean nothing, named by ``null``.
        geometry: anisotropy of the pooled states, one row per (model, split, bias_type, layer)
            and pooled as ``pooled`` is.
        baseline: one row per (model, split, bias_type): the unsteered scores.
        num_missing: cells of a group that are planned and not complete.
    """

    cells: pa.Table
    pooled: pa.Table
    nulls: pa.Table
    geometry: pa.Table
    baseline: pa.Table
    num_missing: int


_Row = dict[str, object]


def summarise(storage: Storage, inventory: Inventory) -> Summary:
    """Estimates of every cell whose rows are complete (``steering_core.metrics`` defines them)."""
    baseline_rows: list[_Row] = []
    cells, pooled, num_missing = _steered(storage, inventory, None, baseline_rows)
    null_rows: list[_Row] = []
    for null in NULLS:
        of_cells, of_pooled, missing = _steered(storage, inventory, null, [])
        null_rows += [{"null": null, **row} for row in (*of_cells, *of_pooled)]
        num_missing += missing
    return Summary(
        cells=pa.Table.from_pylist(cells, schema=CELLS_SCHEMA),
        pooled=pa.Table.from_pylist(pooled, schema=CELLS_SCHEMA),
        nulls=pa.Table.from_pylist(null_rows, schema=NULLS_SCHEMA),
        geometry=geometry(storage, inventory),
        baseline=pa.Table.from_pylist(baseline_rows, schema=BASELINE_SCHEMA),
        num_missing=num_missing,
    )


def _steered(
    storage: Storage, inventory: Inventory, null: Null | None, baseline_rows: list[_Row]
) -> tuple[list[_Row], list[_Row], int]:
    """Rows of cells and of pooled cells, and how many cells are missing; fills the baseline's."""
    planned = planned_keys(inventory.planned, null)
    sums: dict[str, ModelSums] = {}
    for rows in complete_groups(storage, inventory, null) if planned or null is None else ():
        sums.setdefault(rows.group.model, ModelSums()).take_in(rows)
        baseline_rows.append(_baseline_row(rows))
    cells: list[_Row] = []
    pooled: list[_Row] = []
    for model in list(sums):
        of_model = sums.pop(model)
        for key, num_cells in sorted(planned.get(model, {}).items(), key=_order):
            found = of_model.cell(key)
            if found is not None and found.num_cells == num_cells:
                row: _Row = {
                    "model": model,
                    **key._asdict(),
                    "num_examples": of_model.num_examples(key),
                    **_of_cell(found, *of_model.terms(key)),
                    **(_tests(found.whole) if key.layer is not None else _NOT_TESTED),
                }
                (cells if key.is_cell else pooled).append(row)
    for made in (cells, pooled):
        _adjust(made)
    num_planned = sum(key.is_cell for of_model in planned.values() for key in of_model)
    return cells, pooled, num_planned - len(cells)


def _order(entry: tuple[SummaryKey, int]) -> tuple[str, str, int, float]:
    key = entry[0]
    return key.split, key.bias_type, key.layer or 0, key.coeff


def _of_cell(cell: CellSums, before: TermSums, after: TermSums) -> dict[str, object]:
    whole = _estimates(cell.whole, before.whole, after.whole)
    drawn = _estimates(cell.drawn, before.drawn, after.drawn)
    return {"num_non_finite": cell.num_non_finite, **_with_intervals(whole, drawn)}


def _estimates(
    examples: np.ndarray, before: np.ndarray, after: np.ndarray
) -> dict[str, np.ndarray]:
    """By name of ``summary_tables.CELL_ESTIMATES``, from sums over examples and over terms."""
    steered, unsteered = stereoset_estimates(after), stereoset_estimates(before)
    changes = {f"{name}_change": steered[name] - unsteered[name] for name in steered}
    return {**estimates(examples), **steered, **changes}


def _with_intervals(
    whole: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
    low, high = interval(np.column_stack([drawn[name] for name in whole]))
    row: dict[str, float | None] = {}
    for index, (name, value) in enumerate(whole.items()):
        ends = (("", value), ("_low", low[index]), ("_high", high[index]))
        row |= {f"{name}{end}": float(number) for end, number in ends}
    if np.isnan(whole.get("anti_ratio", 0.0)):  # nothing was chosen before, so there is no ratio
        row |= dict.fromkeys(("anti_ratio", "anti_ratio_low", "anti_ratio_high"))
    return row


def _tests(whole_E: np.ndarray) -> dict[str, float]:
    """McNemar's p-value of each net flow."""
    of = dict(zip(EXAMPLE_SUMS, whole_E, strict=True))
    ways = [name.split("2") for name in CHANGES]
    there = np.asarray([of[f"{source}_{sink}"] for source, sink in ways])
    back = np.asarray([of[f"{sink}_{source}"] for source, sink in ways])
    return {f"{name}_p": float(p) for name, p in zip(TESTED, mcnemar(there, back), strict=True)}


_NOT_TESTED = dict.fromkeys(f"{name}_p" for name in TESTED)
"""Over layers, an example would be counted as several that move independently."""


def _adjust(rows: list[dict[str, object]]) -> None:
    """Add q-values: Benjamini-Hochberg over all flows and rows of a model."""
    for model in {row["model"] for row in rows}:
        of_model = [row for row in rows if row["model"] == model]
        p = np.asarray([[row[f"{name}_p"] for name in TESTED] for row in of_model], float)
        q = benjamini_hochberg(p.ravel()).reshape(p.shape)
        for row, values in zip(of_model, q, strict=True):
            row |= {
                f"{name}_q": None if np.isnan(value) else float(value)
                for name, value in zip(TESTED, values, strict=True)
            }


def _baseline_row(rows: GroupRows) -> dict[str, object]:
    group, before = rows.group, rows.before
    num = len(before.example_ids)
    chosen_N3 = (before.choices[:, None] == np.arange(3)).astype(float)
    _, term_N = np.unique(before.targets, return_inverse=True)
    counts_T3 = term_counts(before.scores, term_N, term_N.max() + 1)
    terms = TermSums.of(counts_T3, terms_drawn(len(counts_T3), group.bias_type))
    shares = dict(zip(SHARES, chosen_N3.mean(axis=0), strict=True))
    shares_B = dict(zip(SHARES, (examples_drawn(rows) @ chosen_N3 / num).T, strict=True))
    return {
        "model": group.model,
        "split": group.split,
        "bias_type": group.bias_type,
        "num_examples": num,
        "num_non_finite": before.num_non_finite,
        **_with_intervals(
            {**stereoset_estimates(terms.whole), **shares},
            {**stereoset_estimates(terms.drawn), **shares_B},
        ),
    }
