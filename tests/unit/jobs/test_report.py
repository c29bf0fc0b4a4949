"""What is printed of a report."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import StorageSpec
from jobs.page.page import PAGE_KEY
from jobs.stereoset.report import show
from jobs.stereoset.result import as_json, print_result
from jobs.stereoset.summary_tables import HEADLINE_SCHEMA, cells_schema

Row = dict[str, object]
NO_HEADLINE = HEADLINE_SCHEMA.empty_table()


def row(split: str, bias_type: str, layer: int | None, s2a: float) -> Row:
    estimates = {field.name: 0.0 for field in cells_schema() if pa.types.is_floating(field.type)}
    keys = {"model": "m", "split": split, "bias_type": bias_type, "layer": layer, "coeff": 20.0}
    return {**estimates, **keys, "num_examples": 10, "num_non_finite": 0, "s2a": s2a}


def table_of(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=cells_schema())


def shown(
    cells: Sequence[Row], pooled: Sequence[Row], folder: Path, capsys: pytest.CaptureFixture[str]
) -> str:
    """What `run` prints of an output that is done and reported."""
    storage = StorageSpec(str(folder)).open()
    tables = {"cells": table_of(cells), "pooled": table_of(pooled), "headline": NO_HEADLINE}
    for name, table in tables.items():
        sink = io.BytesIO()
        pq.write_table(table, sink)
        storage.replace(f"summary/{name}.parquet", sink.getvalue())
    storage.replace(PAGE_KEY, b"<!doctype html>")
    assert show(storage)
    return capsys.readouterr().out


def test_what_is_pooled_over_the_most_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [
        row("inter", bias_type, layer, 1.0) for bias_type in ("race", "gender") for layer in (1, 4)
    ]
    pooled = [
        row("inter", "all", 1, 2.25),
        row("inter", "all", None, 3.25),
        row("inter", "race", None, 4.25),
        row("all", "all", None, 5.25),
    ]
    out = shown(cells, pooled, tmp_path, capsys)
    assert "over 2 bias types and 2 layers" in out
    assert "+3.250" in out
    assert not any(number in out for number in ("+1.000", "+2.250", "+4.250", "+5.250"))


@pytest.mark.parametrize(
    ("axis", "pooled"),
    [
        ("layers", [row("inter", "race", None, 3.25)]),
        ("bias types", [row("inter", "all", 1, 3.25)]),
    ],
)
def test_a_sweep_with_one_layer_or_bias_type_is_pooled_over_the_other(
    axis: str, pooled: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [("gender", 1), ("race", 1)] if axis == "bias types" else [("race", 1), ("race", 4)]
    out = shown([row("inter", *at, 1.0) for at in others], pooled, tmp_path, capsys)
    assert f"over 2 {axis}\n" in out
    assert "m, inter, layer 1 (10 examples)" in out or "m, inter, race (10 examples)" in out
    assert "+3.250" in out
    assert "+1.000" not in out


def test_cells_that_are_not_pooled_yet_are_printed_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [row("inter", "race", layer, 1 / layer) for layer in (1, 4)]
    out = shown(cells, [], tmp_path, capsys)
    assert "+1.000" in out
    assert "+0.250" in out


def test_the_short_form_says_how_to_get_all_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [row("inter", "race", layer, float(layer)) for layer in range(1, 62)]
    out = shown(cells, [], tmp_path, capsys)
    assert "60 of 61 rows" in out
    assert "--by coeff" in out
    assert "+60.00" in out
    assert "+61.00" not in out
    print_result(table_of(cells), table_of([]), NO_HEADLINE, frozenset({"coeff"}))
    assert "+61.00" in capsys.readouterr().out


@pytest.mark.parametrize(("by", "wanted"), [({"layer"}, 2.25), ({"bias_type"}, 4.25)])
def test_by_keeps_an_axis_apart(
    by: set[str], wanted: float, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [row("inter", name, layer, 1.0) for name in ("race", "gender") for layer in (1, 4)]
    pooled = [row("inter", "all", layer, 2.25) for layer in (1, 4)]
    pooled += [row("inter", name, None, 4.25) for name in ("race", "gender")]
    pooled.append(row("inter", "all", None, 3.25))
    print_result(table_of(cells), table_of(pooled), NO_HEADLINE, frozenset(by))
    out = capsys.readouterr().out
    assert out.count(f"{wanted:+.3f}") == 2
    assert "+3.250" not in out


def test_what_is_not_defined_is_a_dash_and_null() -> None:
    bad = {**row("inter", "race", 1, math.nan), "changed": math.nan, "lms_change": None}
    (found,) = as_json([bad], "in_sample")
    assert found["vectors"] == "in_sample"
    assert found["s2a"] is None
    assert found["changed"] is None
    assert found["lms_before"] is None
    assert found["lms"] == 0.0


def test_held_out_rows_and_the_paired_difference_stand_below_in_sample_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = [row("inter", "race", layer, 2.0 * layer) for layer in (1, 4)]
    held_out = [row("inter", "race", layer, 0.5) for layer in (1, 4)]
    paired = {"kind": "held_out", "a": "in_sample", "b": "held_out", "low": 1.1, "high": 1.9}
    differences = [
        {**held_out[0], **paired, "estimate": "s2a", "difference": 1.5},
        # Models are compared in the same table of the summary, and not here.
        {**held_out[1], **paired, "kind": "models", "estimate": "s2a", "difference": 7.0},
    ]
    print_result(
        table_of(cells), table_of([]), NO_HEADLINE, held_out=held_out, differences=differences
    )
    out = capsys.readouterr().out
    lines = [
        line.split()[2:4]
        for line in out.splitlines()
        if line.startswith((" 1", " 4", "1", "4", "    1", "    4"))
    ]
    assert lines == [
        ["in-sample", "+2.000"],
        ["held-out", "+0.500"],
        ["difference", "+1.500"],
        ["in-sample", "+8.000"],
        ["held-out", "+0.500"],
    ]
    assert "(+1.100, +1.900)" in out
    assert "+7.000" not in out
    assert "S→U" not in out
    assert max(map(len, out.splitlines())) <= 80
