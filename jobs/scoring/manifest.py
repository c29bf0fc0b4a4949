"""Planned tasks as a table, as the output's manifest keeps them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cluster.ledger import Ledger
from jobs.scoring.groups import Group
from jobs.scoring.plan import PlannedTask
from steersweep.errors import UserError

_ROWS_AT_ONCE = 4096  # as plain objects, a row takes several times its place in the task
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

ANY_TEXT = re.compile(r".{1,128}", re.DOTALL)

_SCHEMA = pa.schema(
    [
        ("plan_id", pa.string()),
        ("model", pa.string()),
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


def append(ledger: Ledger, tasks: Sequence[PlannedTask], generation: int) -> None:
    """Add tasks to an output's manifest, never to be changed.

    Args:
        generation: number of the tables that the manifest holds.

    Raises:
        UserError: another driver has added tasks meanwhile.
    """
    for number, table in enumerate(tables_of(tasks), generation):
        ledger.append_manifest(table, number, uuid.uuid4().hex)


def tables_of(tasks: Sequence[PlannedTask]) -> list[pa.Table]:
    """The tasks as tables, one for each kind of groups: those of other data have no axes."""
    by_axes: dict[tuple[str, ...], list[PlannedTask]] = {}
    for task in tasks:
        by_axes.setdefault(task.group.axes, []).append(task)
    return [to_table(of_axes) for of_axes in by_axes.values()]


def to_table(tasks: Sequence[PlannedTask]) -> pa.Table:
    """One row for each task, in the order given; at least one, and all with the same axes."""
    axes = [(axis, pa.string()) for axis in tasks[0].group.axes]
    schema = pa.schema([*list(_SCHEMA)[:2], *axes, *list(_SCHEMA)[2:]])
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
    return pa.Table.from_pylist(rows, schema=schema)


def from_tables(
    tables: Iterable[pa.Table], values: re.Pattern[str] = ANY_TEXT
) -> list[PlannedTask]:
    """The tasks of all generations, oldest first.

    Args:
        values: what values of the axes look like.

    Raises:
        UserError: a table that is no manifest, or whose names would lead out of the output.
    """
    try:
        return _from_tables(tables, values)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the manifest is not that of a sweep ({' '.join(str(error).split())}); choose another "
            "output"
        ) from error


def _from_tables(tables: Iterable[pa.Table], values: re.Pattern[str]) -> list[PlannedTask]:
    # Most tasks of a sweep have the same cells, and two have the same examples: one object of each.
    known: dict[Any, Any] = {}

    def one(value: Any) -> Any:
        return known.setdefault(value, value)

    def group(row: Mapping[str, Any], axes: tuple[str, ...]) -> Group:
        key = tuple(_name(row[axis], values) for axis in axes)
        return Group(_name(row["model"]), key, axes)

    return [
        PlannedTask(
            plan_id=_name(row["plan_id"]),
            group=one(group(row, axes)),
            tables=one(tuple(row["tables"])),
            shard=row["shard"],
            example_ids=one(tuple(row["example_ids"])),
            layers=one(tuple(row["layers"])),
            cells=one(tuple(zip(row["cell_layers"], row["cell_coeffs"], strict=True))),
            cost=row["cost"],
            tokens_per_batch=row["tokens_per_batch"],
        )
        for table in tables
        for axes in [_axes(table)]
        for batch in table.to_batches(_ROWS_AT_ONCE)
        for row in batch.to_pylist()
    ]


def _axes(table: pa.Table) -> tuple[str, ...]:
    """Columns of a manifest that are none of every manifest's."""
    return tuple(_name(name) for name in table.column_names if name not in _SCHEMA.names)


def _name(text: str, pattern: re.Pattern[str] = NAME) -> str:
    """The text as part of a storage key; ValueError where it cannot be one."""
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} is not a name")
    return text
