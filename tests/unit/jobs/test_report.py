"""What is printed of a report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import open_storage
from jobs.stereoset.page.write import PAGE_KEY
from jobs.stereoset.report import show
from jobs.stereoset.summary import CELLS_SCHEMA

Row = dict[str, object]


def row(split: str, bias_type: str, layer: int | None, s2a: float) -> Row:
    estimates = {field.name: 0.0 for field in CELLS_SCHEMA if pa.types.is_floating(field.type)}
    keys = {"model": "m", "split": split, "bias_type": bias_type, "layer": layer, "coeff": 20.0}
    return {**estimates, **keys, "num_examples": 10, "num_non_finite": 0, "s2a": s2a}


def shown(
    cells: Sequence[Row], pooled: Sequence[Row], folder: Path, capsys: pytest.CaptureFixture[str]
) -> str:
    """What `run` prints of an output that is done and reported."""
    storage = open_storage(str(folder))
    for name, rows in (("cells", cells), ("pooled", pooled)):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=CELLS_SCHEMA), sink)
        storage.replace(f"summary/{name}.parquet", sink.getvalue())
    storage.replace(PAGE_KEY, b"<!doctype html>")
    assert show(storage)
    return capsys.readouterr().out


def test_a_few_cells_are_printed_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [row("inter", "race", layer, 1 / layer) for layer in (1, 4)]
    out = shown(cells, [row("inter", "all", 1, 9.0)], tmp_path, capsys)
    assert "1.000" in out
    assert "0.250" in out
    assert "9.000" not in out


def test_of_many_cells_those_over_bias_types_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [row("inter", "race", layer, 1.0) for layer in range(1, 42)]
    pooled = [
        row("inter", "all", 1, 2.25),
        row("inter", "all", None, 3.25),
        row("all", "all", 1, 4.25),
        row("all", "race", 1, 5.25),
    ]
    out = shown(cells, pooled, tmp_path, capsys)
    assert "2.250" in out
    assert not any(number in out for number in ("1.000", "3.250", "4.250", "5.250"))


def test_of_many_cells_without_pooled_ones_the_first_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [row("inter", "race", layer, float(layer)) for layer in range(1, 42)]
    out = shown(cells, [], tmp_path, capsys)
    assert "first 40 of 41 rows" in out
    assert "40.000" in out
    assert "41.000" not in out
