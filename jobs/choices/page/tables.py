"""The tables of a choices sweep's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.choices.words import (
    CHANGED,
    SIGNIFICANT,
    VECTORS,
    Row,
    has_estimate,
    shown_metrics,
    widest,
)
from jobs.page.shown import Shown
from jobs.page.table import MISSING, Cell, Column, Table, coeff_cell, count_cell, word_cell
from jobs.page.words import DASH, number

_MOST_ROWS = 1_000
_MODEL, _FIT = Column("model", is_number=False), Column("fit", is_number=False)
_VECTORS = Column("vectors", is_number=False, before="vectors ")
_WHERE = (_MODEL, _FIT, Column("layer"), Column("coefficient"), _VECTORS)
_MARK = f"*: q < {SIGNIFICANT}, and the interval excludes 0."
_ALONE = "Each interval is for one number alone."


def all_tables(tables: Mapping[str, pa.Table]) -> list[Table]:
    """Every table that has rows."""
    metrics = shown_metrics(tables)
    pooled = [row for row in tables["pooled"].to_pylist() if row not in widest(tables)]
    cells = [*tables["cells"].to_pylist(), *tables["held_out"].to_pylist()]
    made = [
        _steered("glance", "What steering changed", widest(tables), metrics),
        _baseline(tables["baseline"].to_pylist(), metrics),
        _steered("pooled", "Over all fits, and means over layers", pooled, metrics),
        _steered("cells", "Every cell", cells, metrics),
        _groups(tables["groups"].to_pylist(), metrics),
        _null_tests(tables["null_tests"].to_pylist()),
        _metrics(tables["metrics"].to_pylist()),
    ]
    return [table for table in made if table.rows]


def _baseline(rows: Sequence[Row], metrics: Mapping[str, Shown]) -> Table:
    return Table(
        "baseline",
        "Without steering",
        (
            _MODEL,
            _FIT,
            Column("group", is_number=False),
            *_counts(),
            *(Column(shown.label, shown.unit) for shown in metrics.values()),
        ),
        tuple(
            (
                word_cell(row["model"]),
                word_cell(_fit(row)),
                word_cell(_group(row)),
                *_count_cells(row),
                *(_estimate(row, key, shown) for key, shown in metrics.items()),
            )
            for row in rows[:_MOST_ROWS]
        ),
        f"{_ALONE}{_left_out(rows, 'baseline')}",
    ).condensed()


def _steered(name: str, caption: str, rows: Sequence[Row], metrics: Mapping[str, Shown]) -> Table:
    return Table(
        name,
        caption,
        (*_WHERE, *_counts(), *_change_columns(rows, metrics)),
        tuple(
            (*_place(row), *_count_cells(row), *_change_cells(row, rows, metrics))
            for row in rows[:_MOST_ROWS]
        ),
        f"Changes are against the same examples without steering. {_ALONE} {_MARK}"
        f"{_left_out(rows, name if name == 'cells' else 'pooled')}",
    ).condensed()


def _groups(rows: Sequence[Row], metrics: Mapping[str, Shown]) -> Table:
    return Table(
        "groups",
        "Changes by group",
        (
            *_WHERE,
            Column("group", is_number=False),
            *_counts(),
            *_change_columns(rows, metrics),
        ),
        tuple(
            (
                *_place(row),
                word_cell(_group(row)),
                *_count_cells(row),
                *_change_cells(row, rows, metrics),
            )
            for row in rows[:_MOST_ROWS]
        ),
        f"{_ALONE}{_left_out(rows, 'groups')}",
    ).condensed()


def _null_tests(rows: Sequence[Row]) -> Table:
    return Table(
        "null-tests",
        "Change of the gap among vectors that mean nothing",
        (
            *_WHERE,
            Column("null", is_number=False),
            Column("change of the gap", "nats per token"),
            Column("draws"),
            Column("rank", "1: no draw moved it as much"),
            Column("p"),
        ),
        tuple(
            (
                *_place(row),
                word_cell(row["null"]),
                Cell(number(row["value"], 3), row["value"]),
                count_cell(row["num_draws"]),
                count_cell(row["rank"]),
                Cell(number(row["p"], 4), row["p"]),
            )
            for row in rows[:_MOST_ROWS]
        ),
        "p = (1 + draws that moved the gap at least as much) / (1 + draws). Draws with shuffled "
        f"labels are scored under these labels.{_left_out(rows, 'null_tests')}",
    ).condensed()


def _metrics(rows: Sequence[Row]) -> Table:
    titles = ("metric", "label", "formula", "better", "source")
    return Table(
        "metrics",
        "How the metrics are computed",
        tuple(Column(title, is_number=False) for title in titles),
        tuple(tuple(word_cell(row[title]) for title in titles) for row in rows),
    )


def _counts() -> tuple[Column, ...]:
    return (Column("n", "examples"), Column("clusters"))


def _count_cells(row: Row) -> tuple[Cell, ...]:
    return (count_cell(row["num_examples"]), count_cell(row["num_clusters"]))


def _change_columns(rows: Sequence[Row], metrics: Mapping[str, Shown]) -> Iterator[Column]:
    for shown in metrics.values():
        yield Column(f"{shown.label}: change", shown.change_unit)
    yield Column(CHANGED.label, "% of examples")
    if _has(rows, "anti_steered"):
        yield Column("moved against the coefficient", "% of examples")
    if _has(rows, "kl"):
        yield Column("KL", "nats per token")


def _change_cells(row: Row, rows: Sequence[Row], metrics: Mapping[str, Shown]) -> Iterator[Cell]:
    for key, shown in metrics.items():
        yield _estimate(row, f"{key}_change", shown)
    yield _estimate(row, "changed", CHANGED)
    if _has(rows, "anti_steered"):
        yield _estimate(row, "anti_steered", CHANGED)
    if _has(rows, "kl"):
        yield MISSING if row["kl"] is None else Cell(number(row["kl"], 3), row["kl"])


def _has(rows: Sequence[Row], name: str) -> bool:
    return any(row[name] is not None for row in rows)


def _place(row: Row) -> tuple[Cell, ...]:
    layer = row["layer"]
    return (
        word_cell(row["model"]),
        word_cell(_fit(row)),
        Cell("mean", -1) if layer is None else Cell(str(layer), layer),
        coeff_cell(row["coeff"]),
        word_cell(VECTORS[row["vectors"]]),
    )


def _fit(row: Row) -> str:
    return "all fits" if row["fit"] is None else str(row["fit"])


def _group(row: Row) -> str:
    return f"{row['group_key']} = {row['group_value']}" if row["group_key"] else DASH


def _left_out(rows: Sequence[Any], name: str) -> str:
    if len(rows) <= _MOST_ROWS:
        return ""
    return f" These are the first {_MOST_ROWS:,} of {len(rows):,} rows; summary/{name}.csv has all."


def _estimate(row: Row, name: str, shown: Shown) -> Cell:
    value = row[name]
    if value is None:
        return MISSING
    if not has_estimate(row, name):
        return Cell(shown.text(value), value)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    q = row.get(f"{name}_q")
    is_marked = q is not None and q < SIGNIFICANT and (low > 0 or high < 0)
    return Cell(shown.text(value), value, shown.range(low, high), "*" if is_marked else "")
