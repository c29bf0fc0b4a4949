"""A digest of the rows of a table that every pyarrow version and every chunking agrees on.

Arrow's and Parquet's own bytes will not do: both depend on the version, on chunks and slices, and
Arrow's also on what happens to lie in slots that are null.
"""

import hashlib
import json
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

_VERSION = "steersweep.table/1"


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...


def table_digest(table: pa.Table) -> str:
    """Return the sha256 of column names, types and values, in hex.

    Floats count by their bits: NaN equals itself, -0.0 is not 0.0. Metadata, chunks, names inside
    lists and the encoding of dictionaries do not count. Raises `TypeError` for a column type that
    Parquet does not give back as it was.
    """
    columns = [[field.name, _type_code(field.type)] for field in table.schema]
    digest = hashlib.sha256()
    digest.update(json.dumps([_VERSION, table.num_rows, columns]).encode())
    for column in table.columns:
        array = column.combine_chunks()
        assert isinstance(array, pa.Array)  # chunked only beyond 2 GiB
        _add(digest, array)
    return digest.hexdigest()


def _type_code(kind: pa.DataType) -> str:
    if pat.is_dictionary(kind):
        return _type_code(kind.value_type)
    if pat.is_list(kind) or pat.is_large_list(kind):
        outer = "list" if pat.is_list(kind) else "large_list"
        return f"{outer}<{_type_code(kind.value_type)}>"
    if pat.is_struct(kind):
        return json.dumps(["struct", [[field.name, _type_code(field.type)] for field in kind]])
    if (
        pat.is_null(kind)
        or pat.is_boolean(kind)
        or pat.is_integer(kind)
        or pat.is_floating(kind)
        or pat.is_date32(kind)
        or _is_bytes(kind)
        or (pat.is_timestamp(kind) and kind.unit != "s")
    ):
        return str(kind)
    raise TypeError(f"a part cannot hold a column of type {kind}")


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        kind == known for known in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    )


def _add(digest: _Hash, array: pa.Array) -> None:
    """Add which slots are valid, then the values of those, recursively."""
    kind = array.type
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pat.is_null(kind):
        return
    valid = array.drop_null()
    if pat.is_dictionary(kind):
        _add(digest, valid.dictionary_decode())
    elif pat.is_list(kind) or pat.is_large_list(kind):
        _add_numbers(digest, valid.value_lengths().cast(pa.int64()))
        _add(digest, valid.flatten())
    elif pat.is_struct(kind):
        for index in range(kind.num_fields):
            _add(digest, valid.field(index))
    elif _is_bytes(kind):
        values = valid.cast(pa.large_binary())
        _add_numbers(digest, pc.binary_length(values))
        digest.update(_bytes_of(values))
    elif pat.is_date32(kind):
        _add_numbers(digest, valid.cast(pa.int32()))
    elif pat.is_timestamp(kind):
        _add_numbers(digest, valid.cast(pa.int64()))
    else:
        _add_numbers(digest, valid)


def _bytes_of(values: pa.LargeBinaryArray) -> Any:
    """The bytes of all values one after the other, where they lie: none of them is null."""
    _, offsets, data = values.buffers()
    if data is None or not len(values):
        return b""
    ends = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    return memoryview(data)[ends[0] : ends[-1]]


def _add_numbers(digest: _Hash, values: pa.Array) -> None:
    numbers = values.to_numpy(zero_copy_only=False)
    digest.update(np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<")).tobytes())
