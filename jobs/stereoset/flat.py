"""All rows of a StereoSet output in one layout, with partition columns and texts in the rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.scoring.groups import Group
from jobs.scoring.inventory import Inventory
from jobs.scoring.rows import KL_FIELD
from jobs.scoring.tables import HELD_OUT, STEERED, NullTable, null_table
from jobs.stereoset.examples import EXAMPLES_SCHEMA
from jobs.stereoset.groups import AXES, place_of
from jobs.stereoset.tables import ROWS_SCHEMA
from steering_core.scoring import Measure

_GROUP = ("model", *AXES)
_TEXTS = ("context", "candidates", "labels")

FLAT_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        *((name, pa.string()) for name in _GROUP),
        ("null", pa.string()),
        ("vectors", pa.string()),
        ("draw", pa.int32()),
        *(ROWS_SCHEMA.field(name) for name in ("example_id", "target")),
        *(EXAMPLES_SCHEMA.field(name) for name in _TEXTS),
        *(field for field in ROWS_SCHEMA if field.name not in ("example_id", "target")),
    ]
)
"""``table`` is ``baseline``, ``steered``, ``held_out`` or ``nulls``; ``null``, ``vectors`` (those
that the draw stands for) and ``draw`` are set in ``nulls`` alone."""


def flat_schema(measures: Collection[Measure]) -> pa.Schema:
    """``FLAT_SCHEMA``, with a column for each measure, null in ``baseline``."""
    return FLAT_SCHEMA.append(KL_FIELD) if "kl" in measures else FLAT_SCHEMA


def flat_tables(
    storage: Storage,
    inventory: Inventory,
    examples: pa.Table | None,
    measures: Collection[Measure] = (),
) -> Iterator[pa.Table]:
    """Every row of every finished part (``flat_schema``), one part at a time.

    The order is that of the tables, then of groups, then of the plan.

    Args:
        examples: the texts; None leaves them null.

    Raises:
        CorruptPartError: a damaged part.
    """
    texts = _Texts(examples, flat_schema(measures))
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
    """Texts by split and example id."""

    def __init__(self, examples: pa.Table | None, schema: pa.Schema) -> None:
        self._schema = schema
        self._examples = EXAMPLES_SCHEMA.empty_table() if examples is None else examples
        keys = (self._examples[name].to_pylist() for name in ("split", "example_id"))
        self._place = {key: place for place, key in enumerate(zip(*keys, strict=True))}

    def joined(self, rows: pa.Table, table: str, group: Group, null: NullTable | None) -> pa.Table:
        """Rows of a group's part with all columns of the schema."""
        ids = rows["example_id"].to_pylist()
        places = pa.array([self._place.get((place_of(group)[0], x)) for x in ids], pa.int64())
        texts = self._examples.select(list(_TEXTS)).take(places)
        constants: dict[str, object] = {"table": table, **group.columns}
        constants |= {
            "null": null and null.null,
            "vectors": (null and null.vectors) or None,
            "draw": null and null.draw,
        }
        for name, value in constants.items():
            kind = FLAT_SCHEMA.field(name).type
            rows = rows.append_column(name, pa.array([value] * len(ids), kind))
        for name in _TEXTS:
            rows = rows.append_column(name, texts[name])
        for name in set(self._schema.names) - set(rows.column_names):
            rows = rows.append_column(name, pa.nulls(len(ids), self._schema.field(name).type))
        return rows.select(self._schema.names).cast(self._schema)
