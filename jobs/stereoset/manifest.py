"""Planned tasks as a table, as the output's manifest keeps them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from jobs.stereoset.groups import group_of
from jobs.stereoset.plan import PlannedTask
from steersweep.errors import UserError

_ROWS_AT_ONCE = 4096  # as plain objects, a row takes several times its place in the task
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

MANIFEST_SCHEMA = pa.schema(
    [
        ("plan_id", pa.string()),
        ("model", pa.string()),
        ("split", pa.string()),
        ("bias_type", pa.string()),
        ("tables", pa.list_(pa.string())),
        ("shard", pa.int32()),
        ("example_ids", pa.list_(pa.string())),
        ("layers", pa.list_(pa.int32())),
        ("cell_layers", pa.list_(pa.int32())),
        ("cell_coeffs", pa.list_(pa.string())),
        ("cost", pa.float64()),
        ("tokens_per_batch", pa.int64()),
    ]
)


def to_table(tasks: Sequence[PlannedTask]) -> pa.Table:
    """One row for each task, in the order given."""
    rows = [
        {
            "plan_id": task.plan_id,
            **task.group.columns,
            "tables": task.tables,
            "shard": task.shard,
            "example_ids": task.example_ids,
            "layers": task.layers,
            "cell_layers": [layer for layer, _ in task.cells],
            "cell_coeffs": [coeff for _, coeff in task.cells],
            "cost": task.cost,
            "tokens_per_batch": task.tokens_per_batch,
        }
        for task in tasks
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def from_tables(tables: Iterable[pa.Table]) -> list[PlannedTask]:
    """The tasks of all generations, oldest first.

    Raises:
        UserError: a table that is no manifest, or whose names would lead out of the output.
    """
    try:
        return _from_tables(tables)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the manifest is not that of a sweep ({' '.join(str(error).split())}); choose another "
            "output"
        ) from error


def _from_tables(tables: Iterable[pa.Table]) -> list[PlannedTask]:
    # Most tasks of a sweep have the same cells, and two have the same examples: one object of each.
    known: dict[Any, Any] = {}

    def one(value: Any) -> Any:
        return known.setdefault(value, value)

    return [
        PlannedTask(
            plan_id=_name(row["plan_id"]),
            group=one(group_of(_name(row["model"]), _name(row["split"]), _name(row["bias_type"]))),
            tables=one(tuple(row["tables"])),
            shard=row["shard"],
            example_ids=one(tuple(row["example_ids"])),
            layers=one(tuple(row["layers"])),
            cells=one(tuple(zip(row["cell_layers"], row["cell_coeffs"], strict=True))),
            cost=row["cost"],
            tokens_per_batch=row["tokens_per_batch"],
        )
        for table in tables
        for batch in table.to_batches(_ROWS_AT_ONCE)
        for row in batch.to_pylist()
    ]


def _name(text: str) -> str:
    """The text as part of a storage key; ValueError where it cannot be one."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a name")
    return text
