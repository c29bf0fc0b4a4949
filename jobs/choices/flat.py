"""All rows of a choices sweep in one layout, with what paths say of them and with texts."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from jobs.choices.stored import ROWS_TABLES, Part, StoredChoices
from jobs.choices.tables import EXAMPLES_SCHEMA

_PATH = [
    ("table", pa.string()),
    ("model", pa.string()),
    ("fit", pa.string()),
    ("null", pa.string()),
    ("vectors", pa.string()),
    ("draw", pa.int32()),
]
_TEXTS = ("prompt", "candidates")


def flat_schema(rows_schema: pa.Schema) -> pa.Schema:
    """Columns of the flat file: table and path, id and texts, then those of the rows.

    ``null``, ``vectors`` (those that the draw stands for) and ``draw`` are set in ``nulls`` alone;
    a column of a measure is null in ``baseline``.
    """
    texts = [EXAMPLES_SCHEMA.field(name) for name in _TEXTS]
    rest = [field for field in rows_schema if field.name != "example_id"]
    return pa.schema([*_PATH, rows_schema.field("example_id"), *texts, *rest])


def flat_tables(stored: StoredChoices) -> Iterator[pa.Table]:
    """Every row of every finished part, one part at a time."""
    schema = flat_schema(stored.rows_schema)
    examples = stored.examples()
    place = {name: n for n, name in enumerate(examples["example_id"].to_pylist())}
    texts = examples.select(list(_TEXTS))
    for table in ROWS_TABLES:
        for part in stored.parts(table):
            yield _joined(part, table, texts, place, schema)


def with_path(part: Part) -> pa.Table:
    """Rows with the columns that their path has: model and fit."""
    num = len(part.rows)
    rows = part.rows.append_column("model", pa.array([part.model] * num, pa.string()))
    return rows.append_column("fit", pa.array([part.fit] * num, pa.string()))


def _joined(
    part: Part, table: str, texts: pa.Table, place: dict[str, int], schema: pa.Schema
) -> pa.Table:
    rows, num = with_path(part), len(part.rows)
    known = {"table": table, "null": part.null, "vectors": part.vectors, "draw": part.draw}
    for name, value in known.items():
        rows = rows.append_column(name, pa.array([value] * num, schema.field(name).type))
    at = pa.array([place.get(name) for name in rows["example_id"].to_pylist()], pa.int64())
    taken = texts.take(at)
    for name in _TEXTS:
        rows = rows.append_column(name, taken[name])
    for name in set(schema.names) - set(rows.column_names):
        rows = rows.append_column(name, pa.nulls(num, schema.field(name).type))
    return rows.select(schema.names).cast(schema)
