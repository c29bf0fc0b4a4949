"""Running the command line in tests, and reading back what it wrote."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pyarrow as pa
import yaml

from cluster.parts import check_part, commit_part, read_part
from cluster.storage import StorageSpec
from jobs import cli

ROW_KEYS = ["model", "split", "bias_type", "layer", "coeff", "fold", "example_id"]


@dataclass(frozen=True)
class Finished:
    """Exit code and text of one command."""

    code: int
    out: str
    err: str


def steersweep(*arguments: str) -> Finished:
    """Run the command in this process, as the installed script would."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch("sys.argv", ["steersweep", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            return Finished(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main() returned without an exit code")


def write_spec(path: Path, **changes: Any) -> Path:
    """A valid spec of the embedded model and examples, in process, with top-level keys changed."""
    document: dict[str, Any] = {
        "job": "stereoset",
        "models": {"tiny": {"path": "embedded:gemma2-tiny"}},
        "data": {"path": "embedded:examples.json"},
        "protocol": "as_published",
        "steering": {"layers": [1, 4], "coeffs": [-3, 400]},
        "compute": {"executor": "in_process"},
        "output": str(path.parent / "out"),
    }
    document |= changes
    if document["job"] != "stereoset":
        del document["protocol"]
    # A size that a clock decides would make the last bits of two outputs differ.
    document["compute"] = {"tokens_per_batch": 1024} | document["compute"]
    path.write_text(yaml.safe_dump(document))
    return path


def read_rows(uri: str, table: str = "steered") -> pd.DataFrame:
    """Every row of a table's parts with its partition columns, sorted by what it is about."""
    storage = StorageSpec(uri).open()
    frames = []
    for entry in storage.list(f"{table}/"):
        parts = dict(p.split("=") for p in entry.key.split("/") if "=" in p)
        frame = _frame(read_part(storage, entry.key))
        frames.append(frame.assign(**parts))
    rows = pd.concat(frames, ignore_index=True)
    return rows.sort_values([k for k in ROW_KEYS if k in rows], ignore_index=True)


def part_keys(uri: str) -> set[str]:
    """Keys of every part of an output."""
    storage = StorageSpec(uri).open()
    return {
        entry.key
        for table in ("sums", "states", "baseline", "steered")
        for entry in storage.list(f"{table}/")
    }


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def change_part(output: Path, key: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put a changed part in the place of a part, digest and footer in order."""
    storage = StorageSpec(str(output)).open()
    info, table = check_part(storage, key), read_part(storage, key)
    (output / key).unlink()
    changed = change(table).replace_schema_metadata(table.schema.metadata)
    commit_part(storage, key, changed, task_id=info.task_id, attempt="another")
