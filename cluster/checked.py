"""Parts that were found whole before, so that a run of ten thousand is taken up again in seconds.

A cache: a part counts as checked while the listing gives it the version that it had then. Whatever
is new, changed or unknown is checked again, and an unreadable cache is an empty one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import CorruptPartError, ObjectNotFoundError
from cluster.parts import check_parts
from cluster.storage import Storage, StoredObject

CHECKED_KEY = "checked.parquet"
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class CheckedPart:
    """What is kept of a part that was found whole.

    Attributes:
        metadata: that of the table's own schema, from the footer.
        has_read_rows: whether every row was held against the digest, and not the footer alone.
    """

    task_id: str
    version: str
    metadata: Mapping[str, str]
    has_read_rows: bool = False


def check_listed(
    storage: Storage,
    task_ids: Mapping[str, str],
    listed: Mapping[str, StoredObject],
    known: Mapping[str, CheckedPart] | None = None,
    *,
    reads_rows: bool = False,
) -> tuple[dict[str, CheckedPart], dict[str, CorruptPartError]]:
    """Check the parts {key: task id}, each of which is listed; returns (good, bad).

    Reads only those that no earlier check has seen as they are now. Raises
    `StorageUnavailableError`.

    `known`: what `read_checked` gives, if the caller has it. `reads_rows`: hold every row against
    the part's digest, which reads whole parts.
    """
    if known is None:
        known = read_checked(storage) if task_ids else {}
    good = {}
    for key, task_id in task_ids.items():
        part = known.get(key)
        if part is None or (part.task_id, part.version) != (task_id, listed[key].version):
            continue
        if part.has_read_rows or not reads_rows:
            good[key] = part
    left = {key: task_id for key, task_id in task_ids.items() if key not in good}
    found, bad = check_parts(storage, left, reads_rows=reads_rows)
    for key, info in found.items():
        good[key] = CheckedPart(info.task_id, listed[key].version, info.metadata, reads_rows)
    return good, bad


def write_checked(storage: Storage, parts: Mapping[str, CheckedPart]) -> None:
    """Keep what was found for the next time."""
    table = pa.table(
        {
            "key": list(parts),
            "task_id": [part.task_id for part in parts.values()],
            "version": [part.version for part in parts.values()],
            "metadata": [json.dumps(dict(part.metadata)) for part in parts.values()],
            "has_read_rows": [part.has_read_rows for part in parts.values()],
        },
        schema=_SCHEMA,
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.replace(CHECKED_KEY, sink.getvalue().to_pybytes())


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "task_id", "version", "metadata")),
        ("has_read_rows", pa.bool_()),
    ]
)


def read_checked(storage: Storage) -> dict[str, CheckedPart]:
    """What an earlier session has found whole, by key; nothing if that is not known any more."""
    try:
        data = storage.read(CHECKED_KEY)
    except ObjectNotFoundError:
        return {}
    try:
        table = pq.read_table(pa.BufferReader(data))
        # Parts without a certificate say the same: one object of all of them.
        metadata = {text: json.loads(text) for text in pc.unique(table["metadata"]).to_pylist()}
        return {
            row["key"]: CheckedPart(
                row["task_id"],
                row["version"],
                metadata[row["metadata"]],
                row.get("has_read_rows", False),  # a version before this column wrote it
            )
            for batch in table.to_batches(_ROWS_AT_ONCE)
            for row in batch.to_pylist()
        }
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return {}  # damaged, or from another version: everything is checked
