"""All rows of an output in one layout, with partition columns and texts in the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.scoring.groups import Group
from jobs.scoring.inventory import Inventory
from jobs.scoring.tables import HELD_OUT, STEERED, NullTable, null_table


@dataclass(frozen=True)
class FlatLayout:
    """The columns of flat rows.

    Attributes:
        rows: columns of stored rows, with those of what was measured.
        axes: what tells the groups of a model apart.
        names: columns of stored rows that say what a row is about; the texts follow them.
        texts: columns of ``examples.parquet`` that rows get.
        text_axes: axes that the texts have as columns, too: with the id, they name an example.
    """

    rows: pa.Schema
    axes: Sequence[str]
    names: Sequence[str]
    texts: Sequence[pa.Field]
    text_axes: Sequence[str] = ()

    @cached_property
    def schema(self) -> pa.Schema:
        """All columns. ``table`` is ``baseline``, ``steered``, ``held_out`` or ``nulls``; ``null``,
        ``vectors`` (those that the draw stands for) and ``draw`` are set in ``nulls`` alone."""
        return pa.schema(
            [
                ("table", pa.string()),
                *((name, pa.string()) for name in ("model", *self.axes)),
                ("null", pa.string()),
                ("vectors", pa.string()),
                ("draw", pa.int32()),
                *(self.rows.field(name) for name in self.names),
                *self.texts,
                *(field for field in self.rows if field.name not in self.names),
            ]
        )


def flat_tables(
    storage: Storage, inventory: Inventory, examples: pa.Table | None, layout: FlatLayout
) -> Iterator[pa.Table]:
    """Every row of every finished part, one part at a time.

    The order is that of the tables, then of groups, then of the plan.

    Args:
        examples: the texts; None leaves them null.

    Raises:
        CorruptPartError: a damaged part.
    """
    texts = _Texts(examples, layout)
    groups = sorted({task.group for task in inventory.planned})
    named = dict.fromkeys(table for task in inventory.planned for table in task.tables)
    nulls = sorted((of, table) for table in named if (of := null_table(table)) is not None)
    kinds: list[tuple[str, str, NullTable | None]] = [
        *((table, table, None) for table in ("baseline", STEERED, HELD_OUT)),
        *(("nulls", table, of) for of, table in nulls),
    ]
    for name, table, null in kinds:
        for group in groups:
            for _, task_id, key in inventory.parts_done(table, group):
                yield texts.joined(read_part(storage, key, task_id), name, group, null)


class _Texts:
    """Texts by what names an example."""

    def __init__(self, examples: pa.Table | None, layout: FlatLayout) -> None:
        self._layout = layout
        keys = [pa.field(name, pa.string()) for name in (*layout.text_axes, "example_id")]
        none = pa.schema([*keys, *layout.texts]).empty_table()
        self._examples = none if examples is None else examples
        columns = (self._examples[field.name].to_pylist() for field in keys)
        self._place = {key: place for place, key in enumerate(zip(*columns, strict=True))}

    def joined(self, rows: pa.Table, table: str, group: Group, null: NullTable | None) -> pa.Table:
        """Rows of a group's part with all columns of the schema."""
        schema = self._layout.schema
        of_group = tuple(group.columns[axis] for axis in self._layout.text_axes)
        ids = rows["example_id"].to_pylist()
        places = pa.array([self._place.get((*of_group, x)) for x in ids], pa.int64())
        constants: dict[str, Any] = {"table": table, **group.columns}
        constants |= {
            "null": null and null.null,
            "vectors": (null and null.vectors) or None,
            "draw": null and null.draw,
        }
        for name, value in constants.items():
            rows = rows.append_column(name, pa.array([value] * len(ids), schema.field(name).type))
        for field in self._layout.texts:
            rows = rows.append_column(field.name, self._examples[field.name].take(places))
        for name in set(schema.names) - set(rows.column_names):
            rows = rows.append_column(name, pa.nulls(len(ids), schema.field(name).type))
        return rows.select(schema.names).cast(schema)
