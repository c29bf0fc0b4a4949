"""``examples.parquet`` is written once, replaced by another content, and made again if damaged."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from cluster.storage import StorageSpec
from jobs.examples_file import EXAMPLES_KEY, read_examples, write_examples

TEXTS = pa.table({"example_id": ["a", "b"], "candidates": [["x", "y"], ["z"]]})
TABLE = TEXTS.replace_schema_metadata({"license": "unknown"})


def test_equal_texts_are_left_alone(tmp_path: Path) -> None:
    storage = StorageSpec(str(tmp_path)).open()
    assert read_examples(storage) is None
    write_examples(storage, TABLE)
    assert read_examples(storage).equals(TABLE, check_metadata=True)
    written = (tmp_path / EXAMPLES_KEY).stat()
    write_examples(storage, TABLE)
    assert (tmp_path / EXAMPLES_KEY).stat().st_ino == written.st_ino, "a new file in its place"
    for other in (TABLE.slice(1), TABLE.replace_schema_metadata({"license": "mit"})):
        write_examples(storage, other)
        assert read_examples(storage).equals(other, check_metadata=True)


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    storage = StorageSpec(str(tmp_path)).open()
    (tmp_path / EXAMPLES_KEY).write_bytes(b"PAR1 and no more")
    assert read_examples(storage) is None
    write_examples(storage, TABLE)
    assert read_examples(storage).equals(TABLE)
