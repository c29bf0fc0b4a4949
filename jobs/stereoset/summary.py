"""One row for each steered cell of a group, from the rows that are in storage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.errors import UserActionError
from cluster.parts import read_part
from cluster.storage import Storage
from cluster.threads import thread_pool
from jobs.stereoset.inventory import Inventory
from jobs.stereoset.plan import Group
from steering_core.metrics import (
    anti_ratio,
    choice_flows,
    log_likelihood_changes,
    stereoset_scores,
)
from steering_core.stereoset import LABELS

_SCORES = [f"score_{label.replace('-', '_')}" for label in LABELS]
_READERS = 8


@dataclass(frozen=True)
class _Rows:
    """Aligned rows of some examples: ids and targets [N], scores [N, 3], choices [N]."""

    example_ids: np.ndarray
    targets: np.ndarray
    scores: np.ndarray
    choices: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> _Rows:
        index = {label: number for number, label in enumerate(LABELS)}
        return cls(
            example_ids=np.asarray(table["example_id"].to_pylist()),
            targets=np.asarray(table["target"].to_pylist()),
            scores=np.column_stack([table[name].to_numpy() for name in _SCORES]),
            choices=np.asarray([index.get(c, -1) for c in table["choice"].to_pylist()]),
        )

    @classmethod
    def joined(cls, parts: list[_Rows]) -> _Rows:
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("example_ids", "targets", "scores", "choices")
            )
        )


@dataclass(frozen=True)
class Summary:
    """The two tables of a summary, and what they could not cover.

    Attributes:
        cells: one row per (model, split, bias_type, layer, coeff).
        baseline: one row per (model, split, bias_type): the unsteered scores.
        num_missing: cells of a group that are planned and not complete.
    """

    cells: pa.Table
    baseline: pa.Table
    num_missing: int


def summarise(storage: Storage, inventory: Inventory) -> Summary:
    """Metrics of every cell whose rows are complete (``steering_core.metrics`` defines them)."""
    num_examples: dict[Group, int] = defaultdict(int)
    planned_cells: dict[Group, set[tuple[int, float]]] = defaultdict(set)
    for task in inventory.planned:
        if "baseline" in task.tables:
            num_examples[task.group] += len(task.example_ids)
        planned_cells[task.group] |= {(cell.layer, cell.coeff) for cell in task.typed_cells()}
    baseline_rows, cell_rows = [], []
    for group, shards in sorted(_baseline(storage, inventory).items()):
        before = _Rows.joined([shards[s] for s in sorted(shards)])
        if len(before.example_ids) < num_examples[group]:
            continue
        baseline_rows.append(_names(group) | _of_scores(before))
        cells = _steered(storage, inventory, group, shards)
        for (layer, coeff), pairs in sorted(cells.items()):
            rows = [_Rows.joined(list(side)) for side in zip(*pairs, strict=True)]
            if len(rows[0].example_ids) == num_examples[group]:
                metrics = _of_cell(rows[0], rows[1])
                cell_rows.append({**_names(group), "layer": layer, "coeff": coeff, **metrics})
    num_planned = sum(len(cells) for cells in planned_cells.values())
    return Summary(
        cells=pa.Table.from_pylist(cell_rows, schema=CELLS_SCHEMA),
        baseline=pa.Table.from_pylist(baseline_rows, schema=BASELINE_SCHEMA),
        num_missing=num_planned - len(cell_rows),
    )


def _baseline(storage: Storage, inventory: Inventory) -> dict[Group, dict[int, _Rows]]:
    parts = inventory.parts_done("baseline")
    shards: dict[Group, dict[int, _Rows]] = defaultdict(dict)
    with thread_pool(_READERS) as pool:
        tables = pool.map(lambda part: read_part(storage, part[2], part[1]), parts)
        for (task, _, _), table in zip(parts, tables, strict=True):
            shards[task.group][task.shard] = _Rows.of(table)
    return shards


def _steered(
    storage: Storage, inventory: Inventory, group: Group, shards: dict[int, _Rows]
) -> dict[tuple[int, float], list[tuple[_Rows, _Rows]]]:
    """(baseline rows, steered rows) of each shard, by cell; a group is held at a time."""
    parts = [p for p in inventory.parts_done("steered") if p[0].group == group]
    cells: dict[tuple[int, float], list[tuple[_Rows, _Rows]]] = defaultdict(list)
    with thread_pool(_READERS) as pool:
        tables = pool.map(lambda part: read_part(storage, part[2], part[1]), parts)
        for (task, _, key), table in zip(parts, tables, strict=True):
            if task.shard not in shards:
                continue
            before = shards[task.shard]
            for cell, rows in _split(table, len(task.cells)):
                if not np.array_equal(rows.example_ids, before.example_ids):
                    raise UserActionError(
                        f"{storage.uri_of(key)} holds other examples than its baseline; delete it "
                        "to have it made again"
                    )
                cells[cell].append((before, rows))
    return cells


def _split(table: pa.Table, num_cells: int) -> Iterator[tuple[tuple[int, float], _Rows]]:
    """The cells of a steered part, which stand one behind the other."""
    size = table.num_rows // num_cells
    for number in range(num_cells):
        rows = table.slice(number * size, size)
        yield (rows["layer"][0].as_py(), rows["coeff"][0].as_py()), _Rows.of(rows)


def _of_scores(rows: _Rows) -> dict[str, object]:
    shares = {
        f"share_{label.replace('-', '_')}": float(np.mean(rows.choices == index))
        for index, label in enumerate(LABELS)
    }
    return {
        "num_examples": len(rows.example_ids),
        "num_non_finite": int((~np.isfinite(rows.scores)).any(axis=1).sum()),
        **stereoset_scores(rows.scores, rows.targets.tolist()),
        **shares,
    }


def _of_cell(before: _Rows, after: _Rows) -> dict[str, object]:
    scores = _of_scores(after)
    return {
        "num_examples": scores["num_examples"],
        "num_non_finite": scores["num_non_finite"],
        **log_likelihood_changes(before.scores, after.scores),
        **choice_flows(before.choices, after.choices),
        "anti_ratio": anti_ratio(before.choices, after.choices),
        **{name: scores[name] for name in ("lms", "ss", "icat")},
    }


def _names(group: Group) -> dict[str, object]:
    return {"model": group.model, "split": group.split, "bias_type": group.bias_type}


_GROUP_FIELDS = [(name, pa.string()) for name in ("model", "split", "bias_type")]
_COUNT_FIELDS = [("num_examples", pa.int64()), ("num_non_finite", pa.int64())]
_ESTIMATES = [
    *("s2a", "u2a", "s2u", "flow_s2a", "flow_u2a", "flow_s2u"),
    *(f"flow_{a}_{b}" for a in "sau" for b in "sau"),
    *("anti_ratio", "lms", "ss", "icat"),
]
CELLS_SCHEMA = pa.schema(
    [
        *_GROUP_FIELDS,
        ("layer", pa.int32()),
        ("coeff", pa.float64()),
        *_COUNT_FIELDS,
        *((name, pa.float64()) for name in _ESTIMATES),
    ]
)
BASELINE_SCHEMA = pa.schema(
    [
        *_GROUP_FIELDS,
        *_COUNT_FIELDS,
        *((name, pa.float64()) for name in ("lms", "ss", "icat")),
        *((f"share_{label.replace('-', '_')}", pa.float64()) for label in LABELS),
    ]
)
