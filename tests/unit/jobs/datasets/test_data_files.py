"""Data files of every format, and the line that each damaged one gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.datasets.files import read_records
from steersweep.errors import UserError

ROWS = [{"a": "x", "b": "1"}, {"a": 'l\u2028ne, "two"\nthree', "b": ""}]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def csv_text(separator: str) -> str:
    quoted = ROWS[1]["a"].replace('"', '""')
    return f'a{separator}b\r\nx{separator}1\r\n"{quoted}"{separator}\r\n'


WRITERS: dict[str, Callable[[Path], Any]] = {
    "list.json": lambda path: path.write_text(json.dumps(ROWS)),
    "object.json": lambda path: path.write_text(json.dumps({"version": 1, "rows": ROWS})),
    "lines.jsonl": lambda path: path.write_bytes(
        "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
    ),
    "table.csv": lambda path: path.write_bytes(csv_text(",").encode()),
    "table.tsv": lambda path: path.write_bytes(csv_text("\t").encode()),
    "table.PARQUET": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_records(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert read_records(tmp_path / name) == ROWS


def test_nested_columns_of_parquet_are_lists_and_objects(tmp_path: Path) -> None:
    rows = [{"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "n": 2}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert read_records(tmp_path / "x.parquet") == rows


@pytest.mark.parametrize("content", ["One.\n l\u2028ne \n", "One.\r\n l\u2028ne "])
def test_each_line_of_plain_text_is_a_text(content: str, tmp_path: Path) -> None:
    path = write(tmp_path, "data.txt", content)
    assert read_records(path) == [{"text": "One."}, {"text": " l\u2028ne "}]


BAD: list[tuple[str, str | bytes, str]] = [
    ("empty.jsonl", "", "is empty; expected records"),
    ("blank.json", " \n\n", "is empty; expected records"),
    ("empty.parquet", b"", "is empty; expected records"),
    ("bom.json", b"\xef\xbb\xbf[]", "starts with a byte order mark (BOM)"),
    ("bom.csv", b"\xef\xbb\xbfa,b\n1,2", "starts with a byte order mark (BOM)"),
    ("latin.csv", "a\nb\ncaf\u00e9".encode("latin-1"), "line 3 is not UTF-8 text (byte 0xe9)"),
    ("utf16.jsonl", "{}".encode("utf-16"), "line 1 is not UTF-8 text (byte 0xff)"),
    ("cut.json", '[{"a": 1},\n {"a"', "line 2, column 6: not valid JSON"),
    ("cut.jsonl", '{"a": 1}\n\n{"a": \n{"a": 2}', "line 3, column 7: not valid JSON"),
    ("deep.json", "[" * 100_000, "line 1: JSON nested too deeply"),
    ("digits.jsonl", "{}\n" + "1" * 5000, "line 2: not valid JSON"),
    ("number.json", "3", "expected a list of records, or an object with one list; got int"),
    ("none.json", '{"a": 1}', "or an object with one list; got dict, no list"),
    ("two.json", '{"a": [], "b": []}', "got lists under a, b"),
    ("twice.csv", "a,b,a\n1,2,3", "line 1: column 'a' occurs twice"),
    ("long.csv", "a,b\n1,2\n1,2,3", "line 3: expected 2 fields as in line 1, got 3"),
    ("short.tsv", "a\tb\n1", "line 2: expected 2 fields as in line 1, got 1"),
    ("quote.csv", 'a,b\n"1,2\n', "line 2: unexpected end of data"),
    ("text.parquet", "a,b\n1,2", "cannot be read as Parquet:"),
    ("magic.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "cannot be read as Parquet:"),
    (
        "gap.txt",
        "a\n\nb\n",
        "line 2 is empty; each line must hold one text. Remove empty lines, or",
    ),
    ("gaps.txt", "a\n \nb\n\t\r\n", "line 2 (and 1 more) is empty"),
    ("ends.txt", "a\n\n", "line 2 is empty; each line must hold one text"),
    ("latin.txt", "a\ncaf\u00e9".encode("latin-1"), "line 2 is not UTF-8 text (byte 0xe9)"),
    ("blank.txt", "\n", "is empty; expected records"),
    ("data.md", "x", "has extension .md; expected .json, .jsonl, .csv, .tsv, .parquet, .txt"),
    ("data", "x", "has no extension; expected .json"),
]


@pytest.mark.parametrize(("name", "content", "says"), BAD, ids=[name for name, *_ in BAD])
def test_a_damaged_file_gets_one_line(
    name: str, content: str | bytes, says: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        read_records(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert len(caught.value.lines) == 1


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UserError, match="is a folder; expected a file"):
        read_records(tmp_path / "x.json")
    with pytest.raises(UserError, match="no such data file"):
        read_records(tmp_path / "gone.json")
