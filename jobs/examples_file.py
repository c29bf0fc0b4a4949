"""``examples.parquet`` of any output: the texts behind the ids of its rows."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import ObjectNotFoundError
from cluster.storage import Storage

EXAMPLES_KEY = "examples.parquet"


def write_examples(storage: Storage, table: pa.Table, key: str = EXAMPLES_KEY) -> None:
    """Store the texts of a sweep, unless the same are there already.

    They are a cache of the data, not a part: no task id covers them, and a grid that grew replaces
    them by the larger table.
    """
    if not table.equals(read_examples(storage, key), check_metadata=True):
        sink = pa.BufferOutputStream()
        # Names inside lists are kept, so that a table equals what is read back of it.
        pq.write_table(table, sink, compression="zstd", use_compliant_nested_type=False)
        storage.replace(key, sink.getvalue().to_pybytes())


def read_examples(storage: Storage, key: str = EXAMPLES_KEY) -> pa.Table | None:
    """The stored texts; None if there are none, or if the file is damaged."""
    try:
        return pq.read_table(pa.BufferReader(storage.read(key)))
    except (ObjectNotFoundError, pa.ArrowException, OSError):
        return None
