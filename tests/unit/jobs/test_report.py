"""What is printed of a report."""

from __future__ import annotations

import math

import pyarrow as pa

from jobs.stereoset.report import _pooled
from jobs.stereoset.summary import CELLS_SCHEMA


def cell(bias_type: str, num_examples: int, value: float) -> dict[str, object]:
    estimates = {field.name: value for field in CELLS_SCHEMA if pa.types.is_floating(field.type)}
    names = {"model": "m", "split": "s", "bias_type": bias_type, "layer": 1}
    return {**estimates, **names, "coeff": 20.0, "num_examples": num_examples, "num_non_finite": 0}


def test_a_mean_over_bias_types_leaves_out_what_has_none() -> None:
    keys = ["model", "split", "layer", "coeff"]
    cells = [cell("gender", 10, 1.0), cell("race", 30, 3.0), cell("religion", 60, math.nan)]
    (row,) = _pooled(pa.Table.from_pylist(cells, schema=CELLS_SCHEMA), keys)
    assert row["num_examples"] == 100
    assert row["s2a"] == row["icat"] == 2.5
    (row,) = _pooled(pa.Table.from_pylist(cells[2:], schema=CELLS_SCHEMA), keys)
    assert math.isnan(row["s2a"])  # type: ignore[arg-type]
