"""Columns of a choices summary (a contract: other tools read them). They follow from the metrics.

``fit`` is null in rows over all fits, ``layer`` in rows that are means over layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from steering_core.datasets.base import Metric

SHARES = ("changed", "anti_steered")
_TEXT, _NUMBER, _COUNT = pa.string(), pa.float64(), pa.int32()
_CELL = [("model", _TEXT), ("fit", _TEXT), ("layer", _COUNT), ("coeff", _NUMBER)]
CELL_KEYS = tuple(name for name, _ in _CELL)
_COUNTS = [(name, _COUNT) for name in ("num_examples", "num_clusters", "num_non_finite")]

METRICS_SCHEMA = pa.schema(
    [(name, _TEXT) for name in ("metric", "label", "unit", "better", "formula", "source")]
)
"""What the columns of the other tables are. ``gap`` comes first, if there is a contrast."""

NULLS_SCHEMA = pa.schema(
    [*_CELL, ("null", _TEXT), ("vectors", _TEXT), ("draw", _COUNT), ("gap_change", _NUMBER)]
)
"""Mean change of the gap by each draw, under its own labels. ``vectors``: those it stands for."""

NULL_TESTS_SCHEMA = pa.schema(
    [
        *_CELL,
        *((name, _TEXT) for name in ("estimate", "null", "vectors")),
        ("value", _NUMBER),
        ("num_draws", _COUNT),
        ("rank", _COUNT),
        ("p", _NUMBER),
    ]
)
"""``vectors``: the fitted ones that are compared; ``rank``: 1 if no draw is at least as large."""

FINDINGS_SCHEMA = pa.schema(
    [
        ("model", _TEXT),
        ("vectors", _TEXT),
        ("family", _TEXT),
        ("metric", _TEXT),
        ("layer", _COUNT),
        ("coeff", _NUMBER),
        *((name, _NUMBER) for name in ("value", "low", "high", "p")),
        ("is_intended", pa.bool_()),
    ]
)
"""Changes over all fits; intervals and p-values hold for all of a model's family together.

``family``: ``gap`` (each layer and coefficient, and means over layers) or ``metrics`` (every other
metric at each coefficient, over layers). ``is_intended``: whether the gap moved with the
coefficient's sign; null if no direction is intended."""


def columns_of_estimates(metrics: Sequence[Metric]) -> list[str]:
    """Estimates of a steered row, each with ``_low`` and ``_high``."""
    of_metrics = [f"{metric.key}{end}" for metric in metrics for end in ("", "_change")]
    return [*of_metrics, *SHARES, "kl"]


def tested_columns(metrics: Sequence[Metric]) -> list[str]:
    """Estimates that have ``_p`` and ``_q``."""
    return [f"{metric.key}_change" for metric in metrics]


def baseline_schema(metrics: Sequence[Metric]) -> pa.Schema:
    """Columns of ``baseline``; ``group_key`` and ``group_value`` are empty in rows of a whole
    fit."""
    of_group = [(name, _TEXT) for name in ("model", "fit", "group_key", "group_value")]
    return pa.schema([*of_group, *_COUNTS, *_ranged(metric.key for metric in metrics)])


def cells_schema(metrics: Sequence[Metric]) -> pa.Schema:
    """Columns of ``cells`` and ``pooled``."""
    tests = [(f"{name}{end}", _NUMBER) for name in tested_columns(metrics) for end in ("_p", "_q")]
    columns = [*_CELL, ("vectors", _TEXT), *_COUNTS, ("dose", _NUMBER)]
    return pa.schema([*columns, *_ranged(columns_of_estimates(metrics)), *tests])


def held_out_schema(metrics: Sequence[Metric]) -> pa.Schema:
    """Columns of ``held_out``: those of ``cells``, and how much more in-sample vectors do."""
    excess = [(f"in_sample_excess{end}", _NUMBER) for end in ("", "_low", "_high", "_p")]
    return pa.schema([*cells_schema(metrics), *excess])


def groups_schema(metrics: Sequence[Metric]) -> pa.Schema:
    """Columns of ``groups``."""
    of_group = [("group_key", _TEXT), ("group_value", _TEXT)]
    columns = [*_CELL, ("vectors", _TEXT), *of_group, *_COUNTS]
    return pa.schema([*columns, *_ranged(columns_of_estimates(metrics))])


def table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows in the order of what tells them apart; all layers and all fits come first."""
    every = ("model", "fit", "group_key", "group_value", "layer", "coeff")
    keys = [name for name in every if name in schema.names]

    def place(row: Mapping[str, Any]) -> list[tuple[bool, Any]]:
        return [(row[name] is not None, 0 if row[name] is None else row[name]) for name in keys]

    return pa.Table.from_pylist(sorted(rows, key=place), schema=schema)


def metrics_table(metrics: Sequence[Metric]) -> pa.Table:
    """The metrics as rows."""
    names = ("label", "unit", "better", "formula", "source")
    rows = [{"metric": of.key, **{name: getattr(of, name) for name in names}} for of in metrics]
    return pa.Table.from_pylist(rows, schema=METRICS_SCHEMA)


def _ranged(names: Iterable[str]) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", _NUMBER) for name in names for end in ("", "_low", "_high")]
