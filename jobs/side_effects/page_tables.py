"""Tables of side effects on a job's page."""

from __future__ import annotations

import pyarrow as pa

from jobs.page.shown import Shown
from jobs.page.table import MISSING, Cell, Column, Table, count_cell, word_cell
from jobs.page.words import PERCENT, number
from jobs.side_effects.words import (
    KINDS,
    Measures,
    Names,
    Row,
    Tables,
    axes_of,
    has_simultaneous,
    is_number,
    matrix_rows,
)

_MOST_ROWS = 1_000
_SDS = "SD"
_ALONE = (
    f"SD: standard deviations over examples. Intervals are 95{PERCENT} intervals, each for one "
    "number alone."
)


def tables_of(tables: Tables) -> list[Table]:
    """Fidelity, prompts, picked steerings, every cell, and the measures; those that have rows."""
    made = [
        _fidelity(tables["fidelity"]),
        _prompts(tables),
        _picked(tables),
        _every_cell(tables),
        _measures(tables),
    ]
    return [table for table in made if table.rows]


def _where(table: pa.Table) -> tuple[Column, ...]:
    return tuple(Column(name, is_number=False) for name in ("model", *axes_of(table)))


def _where_cells(row: Row, table: pa.Table) -> tuple[Cell, ...]:
    return tuple(word_cell(row[name]) for name in ("model", *axes_of(table)))


def _steering(row: Row, names: Names) -> Cell:
    """A vector's layer and strength, or a prompt; sorted by layer, then by coefficient."""
    if row["prompt"]:
        return word_cell(names.push(row))
    return Cell(names.push(row), f"{row['layer']:09} {row['coeff'] + _SHIFT:020.6f}")


_SHIFT = 1e9
"""Makes coefficients positive, so that their texts are in the order of the numbers."""
_STEERING = Column("steering", is_number=False)


def _ranged(row: Row, name: str, digits: int = 2) -> Cell:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if not is_number(value):
        return MISSING
    has_range = is_number(low) and is_number(high)
    detail = f"{number(low, digits)} to {number(high, digits)}" if has_range else ""
    return Cell(number(value, digits), value, detail)


def _fidelity(rows: pa.Table) -> Table:
    names = Names.of(rows)
    return Table(
        "fidelity",
        "Fidelity by steering",
        (
            *_where(rows),
            _STEERING,
            Column("intended", _SDS),
            Column("unintended", _SDS),
            Column("fidelity"),
            Column("other measures"),
            Column("best of its group", is_number=False),
        ),
        tuple(
            (
                *_where_cells(row, rows),
                _steering(row, names),
                *(_ranged(row, name) for name in ("intended", "unintended", "fidelity")),
                count_cell(row["num_measures"]),
                word_cell("yes" if row["is_best"] else ""),
            )
            for row in rows.to_pylist()[:_MOST_ROWS]
        ),
        f"Best: no other steering of the same model and group has a larger intended and a smaller "
        f"unintended change. {_ALONE}{_left_out(rows.num_rows, 'fidelity')}",
    ).condensed()


def _prompts(tables: Tables) -> Table:
    rows, measures = tables["prompt_matches"], Measures.of(tables)
    target = _target(measures)
    return Table(
        "prompt-matches",
        "Prompts, and the doses of vectors that match them",
        (
            *_where(rows),
            Column("prompt", is_number=False, before="prompt "),
            Column(f"{target.label}: change", target.change_unit),
            Column("layer"),
            Column("same at dose"),
            Column("coefficient"),
            Column("unintended, prompt", _SDS),
            Column("unintended, vector", _SDS),
        ),
        tuple(
            (
                *_where_cells(row, rows),
                word_cell(row["prompt"]),
                _change(row, target, "change_low", "change_high"),
                MISSING if row["layer"] is None else Cell(str(row["layer"]), row["layer"]),
                *(
                    _number_cell(row[name], digits)
                    for name, digits in (
                        ("dose", 3),
                        ("coeff", 3),
                        ("unintended_of_prompt", 2),
                        ("unintended_of_vector", 2),
                    )
                ),
            )
            for row in rows.to_pylist()[:_MOST_ROWS]
        ),
        "Doses are interpolated between those of the sweep. A dash: no dose of that layer does "
        f"what the prompt does. {_ALONE}{_left_out(rows.num_rows, 'prompt_matches')}",
    ).condensed()


def _target(measures: Measures) -> Shown:
    """The target's metric; a summary without one has no prompts to compare."""
    for key, row in measures.rows.items():
        if row["kind"] == "target":
            return measures.shown[key]
    return Shown("", "target", 1.0, 3, "", "")


def _picked(tables: Tables) -> Table:
    rows, measures = tables.get("picked"), Measures.of(tables)
    if rows is None:
        return Table("picked", "", (), ())
    names = Names.of(rows)
    return Table(
        "picked",
        "Steerings that reach the effect asked for, with the least side effects first",
        (
            Column("rank"),
            *_where(rows),
            _STEERING,
            Column("metric", is_number=False, before="metric "),
            Column("change when chosen"),
            Column("change"),
            Column("unintended when chosen", _SDS),
            Column("unintended", _SDS),
            Column("still holds", is_number=False),
        ),
        tuple(
            (
                count_cell(row["rank"]),
                *_where_cells(row, rows),
                _steering(row, names),
                word_cell(row["metric"]),
                Cell(of.text(row["change_choosing"]), row["change_choosing"]),
                _change(row, of, "change_low", "change_high"),
                _number_cell(row["unintended_choosing"]),
                _ranged(row, "unintended"),
                word_cell("yes" if row["still_holds"] else "no"),
            )
            for row in rows.to_pylist()
            for of in [measures.of_name(row["metric"]) or _target(measures)]
        ),
        "Chosen on one half of the clusters. “change” and “unintended” are of the other half, "
        f"which did not choose. {_ALONE}",
    ).condensed()


def _change(row: Row, shown: Shown, low: str, high: str, mark: str = "") -> Cell:
    if not is_number(row["change"]):
        return MISSING
    has_range = is_number(row[low]) and is_number(row[high])
    detail = shown.range(row[low], row[high]) if has_range else ""
    return Cell(shown.signed(row["change"]), row["change"], detail, mark)


def _number_cell(value: float | None, digits: int = 2) -> Cell:
    return Cell(number(value, digits), value) if value is not None and is_number(value) else MISSING


def _every_cell(tables: Tables) -> Table:
    measures = Measures.of(tables)
    cells, rows = tables["side_effects"], matrix_rows(tables, measures)
    names = Names.of(cells)
    rows = sorted(rows, key=lambda row: (not row["is_clear"], -abs(row["standardized"] or 0.0)))
    return Table(
        "side-effects",
        "Every change of the matrix",
        (
            *_where(cells),
            _STEERING,
            Column("measure", is_number=False),
            Column("before"),
            Column("change", "interval alone"),
            Column("interval for all"),
            Column("in SD"),
            Column("examples"),
            Column("clusters"),
        ),
        tuple(
            (
                *_where_cells(row, cells),
                _steering(row, names),
                _measure(row, measures),
                Cell(shown.text(row["before"]), row["before"])
                if is_number(row["before"])
                else MISSING,
                _change(row, shown, "change_low", "change_high", "*" if row["is_clear"] else ""),
                _together(row, shown),
                _number_cell(row["standardized"]),
                count_cell(row["num_examples"]),
                count_cell(row["num_clusters"]),
            )
            for row in rows[:_MOST_ROWS]
            for shown in [measures.of_row(row)]
        ),
        "*: clear: the interval that holds for all changes of the model together excludes 0. Clear "
        "changes come first, then the largest in standard deviations (SD)."
        f"{_left_out(len(rows), 'side_effects')}",
    ).condensed()


def _measure(row: Row, measures: Measures) -> Cell:
    detail = ", ".join(filter(None, (KINDS[row["kind"]], measures.of_row(row).change_unit)))
    return Cell(measures.name(row), measures.name(row), detail)


def _together(row: Row, shown: Shown) -> Cell:
    if not has_simultaneous(row):
        return MISSING
    text = shown.range(row["simultaneous_low"], row["simultaneous_high"])
    return Cell(text, row["simultaneous_low"])


def _measures(tables: Tables) -> Table:
    measures = Measures.of(tables)
    return Table(
        "measures",
        "How the measures of side effects are computed",
        tuple(
            Column(title, is_number=False)
            for title in ("kind", "data", "metric", "unit", "better", "formula", "source")
        ),
        tuple(
            (
                word_cell(KINDS[row["kind"]]),
                word_cell(measures.set_title(row) or "same data"),
                Cell(row["label"], row["label"], row["metric"]),
                *(word_cell(row[name]) for name in ("unit", "better", "formula", "source")),
            )
            for row in measures.rows.values()
        ),
    )


def _left_out(num_rows: int, name: str) -> str:
    if num_rows <= _MOST_ROWS:
        return ""
    return f" These are the first {_MOST_ROWS:,} of {num_rows:,} rows; summary/{name}.csv has all."
