"""All rows of a StereoSet output in one layout, with partition columns and texts in the rows."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.stereoset.examples import EXAMPLES_SCHEMA
from jobs.stereoset.inventory import Inventory
from jobs.stereoset.plan import Group
from jobs.stereoset.tables import ROWS_SCHEMA, steered_table
from steering_core.nulls import NULLS, Null

_GROUP = ("model", "split", "bias_type")
_TEXTS = ("context", "candidates", "labels")

FLAT_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        *((name, pa.string()) for name in _GROUP),
        ("null", pa.string()),
        *(ROWS_SCHEMA.field(name) for name in ("example_id", "target")),
        *(EXAMPLES_SCHEMA.field(name) for name in _TEXTS),
        *(field for field in ROWS_SCHEMA if field.name not in ("example_id", "target")),
    ]
)
"""``table`` is ``baseline``, ``steered`` or ``nulls``; ``null`` is set in ``nulls`` alone."""


def flat_tables(
    storage: Storage, inventory: Inventory, examples: pa.Table | None
) -> Iterator[pa.Table]:
    """Every row of every finished part (``FLAT_SCHEMA``), one part at a time.

    The order is that of the tables, then of groups, then of the plan.

    Args:
        examples: the texts; None leaves them null.

    Raises:
        CorruptPartError: a damaged part.
    """
    texts = _Texts(examples)
    groups = sorted({task.group for task in inventory.planned})
    kinds: list[tuple[str, str, Null | None]] = [("baseline", "baseline", None)]
    kinds += [("steered", steered_table(), None)]
    kinds += [("nulls", steered_table(null), null) for null in NULLS]
    for name, table, null in kinds:
        for group in groups:
            for _, task_id, key in inventory.parts_done(table, group):
                yield texts.joined(read_part(storage, key, task_id), name, group, null)


class _Texts:
    """Texts by split and example id."""

    def __init__(self, examples: pa.Table | None) -> None:
        self._examples = EXAMPLES_SCHEMA.empty_table() if examples is None else examples
        keys = (self._examples[name].to_pylist() for name in ("split", "example_id"))
        self._place = {key: place for place, key in enumerate(zip(*keys, strict=True))}

    def joined(self, rows: pa.Table, table: str, group: Group, null: Null | None) -> pa.Table:
        """Rows of a group's part with all columns of ``FLAT_SCHEMA``."""
        ids = rows["example_id"].to_pylist()
        places = pa.array([self._place.get((group.split, x)) for x in ids], pa.int64())
        texts = self._examples.select(list(_TEXTS)).take(places)
        constants = {"table": table, "null": null} | {n: getattr(group, n) for n in _GROUP}
        for name, value in constants.items():
            rows = rows.append_column(name, pa.array([value] * len(ids), pa.string()))
        for name in _TEXTS:
            rows = rows.append_column(name, texts[name])
        return rows.select(FLAT_SCHEMA.names).cast(FLAT_SCHEMA)
