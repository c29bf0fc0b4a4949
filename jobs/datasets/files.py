"""Records of a data file: JSON, JSON Lines, CSV, TSV, Parquet or plain text, by its extension."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steersweep.errors import UserError

_Reader = Callable[[bytes, Path], list[Any]]
"""Records of a file's content; the path is for messages."""

PLAIN_TEXT = ".txt"
"""The extension of files whose lines are texts."""

_BOM = b"\xef\xbb\xbf"
_MOST_CHARS_IN_A_FIELD = 2**24


def read_records(path: str | Path) -> list[Any]:
    """What a file holds, one entry for each record, not checked further.

    Raises:
        UserError: the file is missing, is a folder, is empty, has another extension, or is not what
            its extension says. The message names the file, and the line if it can.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file: {', '.join(_READERS)}")
    if not path.exists():
        raise UserError(f"{path}: no such data file")
    if read is None:
        got = f"extension {path.suffix}" if path.suffix else "no extension"
        raise UserError(f"{path}: has {got}; expected {', '.join(_READERS)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not data.strip():
        raise UserError(f"{path}: is empty; expected records")
    return read(data, path)


def _text(data: bytes, path: Path) -> str:
    if data.startswith(_BOM):
        raise UserError(
            f"{path}: starts with a byte order mark (BOM); save it as UTF-8 without one"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line} is not UTF-8 text (byte {data[error.start]:#04x}); "
            "save it as UTF-8"
        ) from None


def _parsed(text: str, path: Path, line: int) -> Any:
    """A JSON text that begins on a line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {line + error.lineno - 1}, column {error.colno}: not valid JSON "
            f"({error.msg})"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: line {line}: JSON nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: line {line}: not valid JSON: {error}") from None


def _json(data: bytes, path: Path) -> list[Any]:
    document = _parsed(_text(data, path), path, 1)
    if isinstance(document, list):
        return document
    lists = document if isinstance(document, dict) else {}
    lists = {key: value for key, value in lists.items() if isinstance(value, list)}
    if len(lists) != 1:
        got = f"lists under {', '.join(lists)}" if lists else f"{type(document).__name__}, no list"
        raise UserError(
            f"{path}: expected a list of records, or an object with one list; got {got}"
        )
    return next(iter(lists.values()))


def _json_lines(data: bytes, path: Path) -> list[Any]:
    # Not splitlines: a JSON text may hold U+2028, which that takes for the end of a line.
    lines = _text(data, path).split("\n")
    return [_parsed(text, path, n) for n, text in enumerate(lines, 1) if text.strip()]


def _texts(data: bytes, path: Path) -> list[Any]:
    # Not splitlines: a text may hold U+2028 or a form feed.
    lines = _text(data, path).removesuffix("\n").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        others = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise UserError(
            f"{path}: line {empty[0]}{others} is empty; each line must hold one text. Remove empty "
            "lines, or use JSON Lines for texts with line breaks"
        )
    return [{"text": line} for line in lines]


def _separated(separator: str) -> _Reader:
    def read(data: bytes, path: Path) -> list[Any]:
        csv.field_size_limit(_MOST_CHARS_IN_A_FIELD)
        text = io.StringIO(_text(data, path), newline="")
        rows = csv.reader(text, delimiter=separator, strict=True)
        try:
            header = next(rows)
            _check_header(header, path)
            return [_row(header, row, rows.line_num, path) for row in rows if row]
        except csv.Error as error:
            raise UserError(f"{path}: line {rows.line_num}: {error}") from None

    return read


def _check_header(header: list[str], path: Path) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}: line 1: column {twice[0]!r} occurs twice")


def _row(header: list[str], row: list[str], line: int, path: Path) -> dict[str, str]:
    if len(row) != len(header):
        raise UserError(
            f"{path}: line {line}: expected {len(header)} fields as in line 1, got {len(row)}"
        )
    return dict(zip(header, row, strict=True))


def _parquet(data: bytes, path: Path) -> list[Any]:
    try:
        # Not by its path: names of folders such as year=2024 would become columns.
        records: list[Any] = pq.read_table(pa.BufferReader(data)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as Parquet: {reason}") from None
    return records


_READERS: Mapping[str, _Reader] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
    PLAIN_TEXT: _texts,
}
