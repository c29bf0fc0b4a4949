"""The page's tables: cells of text with the value that they are sorted by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pyarrow as pa

from jobs.page.estimate import Estimate
from jobs.page.table import MISSING, Cell, Column, Table, coeff_cell, count_cell, word_cell
from jobs.page.words import counted, number
from jobs.stereoset.comparison import Comparison
from jobs.stereoset.headline import KINDS, VECTORS, averages
from jobs.stereoset.labels import CHANGES, FLOWS
from jobs.stereoset.page.facts import Facts
from jobs.stereoset.page.finding import SIGNIFICANT
from jobs.stereoset.page.words import name_of
from jobs.stereoset.summary import Summary
from jobs.stereoset.summary_keys import AXES, POOLED, is_cell, widest
from jobs.stereoset.summary_tables import SHARES
from steering_core.dose_response import MONOTONE
from steering_core.quantities import (
    DELTA,
    QUANTITIES,
    SCORE_CHANGES,
    STEREOSET_ESTIMATES,
    TESTED,
    with_formula,
)

_MOST_ROWS = 2000

_Row = Mapping[str, Any]


_MARK = f"q < {SIGNIFICANT}, and the interval excludes 0"
_NULL_NOTE = (
    "Null vectors show what any push of this size moves. Only what the fitted vectors move beyond "
    "that is their own effect."
)
_SUMMED_UP = (*TESTED, "changed", "lms_change")
"""What tables of few rows show of a place."""


def glance(summary: Summary) -> Table:
    """Net flows and LMS of each model at each coefficient, from the widest pooled rows."""
    rows = _side_by_side(
        {
            vectors: [row for of_model in widest(rows).values() for row in of_model]
            for vectors, rows in summary.by_vectors.items()
        }
    )
    names = (*_SUMMED_UP, "lms", *_measured([row for _, row in rows]))
    notes = "".join(f" {note}" for name in names if (note := QUANTITIES[name].note))
    return Table(
        "glance",
        "What steering changed",
        (
            Column("model", is_number=False),
            Column("where", is_number=False),
            Column("coefficient"),
            *_vectors_column(summary),
            *_columns(names),
        ),
        tuple(
            (
                word_cell(row["model"]),
                word_cell(_place(row)),
                coeff_cell(row["coeff"]),
                *_vectors_cell(summary, vectors),
                *_cells(row, names),
            )
            for vectors, row in rows[:_MOST_ROWS]
        ),
        "Every example has the same weight here. Intervals are each for one number alone. "
        f"*: {_MARK}.{notes}",
    ).condensed()


def headline(summary: Summary) -> Table:
    """The averages of the paper's notebook."""
    by_vectors: dict[str, list[_Row]] = {}
    for row in summary.headline.to_pylist():
        by_vectors.setdefault(row["vectors"], []).append(row)
    rows = [row for _, row in _side_by_side(by_vectors, ("model", "split", "coeff"))]
    names = KINDS if len(by_vectors) > 1 else VECTORS
    shown = ("anti_rise_percent", *FLOWS, *CHANGES)
    return Table(
        "headline",
        "The paper's headline",
        (
            Column("model", is_number=False),
            Column("split", is_number=False),
            Column("coefficient"),
            Column("vectors", is_number=False),
            *_columns(shown),
        ),
        tuple(
            (
                word_cell(row["model"]),
                word_cell(row["split"]),
                coeff_cell(row["coeff"]),
                word_cell(names[row["vectors"]]),
                *_cells(row, shown, is_marked=False),
            )
            for row in rows[:_MOST_ROWS]
        ),
        f"{averages(rows)} Intervals are each for one number alone; the finding below allows for "
        "having several numbers to choose from.",
    ).condensed()


def _side_by_side(
    by_vectors: Mapping[str, Sequence[_Row]], key: Sequence[str] = ("model", *AXES, "coeff")
) -> list[tuple[str, _Row]]:
    """(Vectors, row), with the rows of one place next to each other."""
    places: dict[tuple[Any, ...], list[tuple[str, _Row]]] = {}
    for vectors, rows in by_vectors.items():
        for row in rows:
            places.setdefault(tuple(row[name] for name in key), []).append((vectors, row))
    return [entry for of_place in places.values() for entry in of_place]


def _vectors_column(summary: Summary) -> tuple[Column, ...]:
    """A column that tells in-sample from held-out rows, if there are both."""
    return (Column("vectors", is_number=False),) if summary.held_out.num_rows else ()


def _vectors_cell(summary: Summary, vectors: str) -> tuple[Cell, ...]:
    return (word_cell(KINDS[vectors]),) if summary.held_out.num_rows else ()


def held_out_differences(summary: Summary) -> Table:
    """Paired differences of in-sample from held-out vectors."""
    return _differences(
        "held-out-differences",
        "Differences: in-sample minus held-out vectors",
        _where(summary.differences.to_pylist(), "kind", "held_out"),
    )


def null_tests(summary: Summary) -> Table:
    """Ranks and p-values of the fitted vectors' effects among those of the draws."""
    by_key: dict[tuple[Any, ...], dict[str, _Row]] = {}
    for row in summary.null_tests.to_pylist():
        key = ((*_key(row), row["coeff"]), row["null"], row["vectors"])
        by_key.setdefault(key, {})[row["estimate"]] = row
    places = {place: number for number, place in enumerate(dict.fromkeys(k[0] for k in by_key))}

    def widest_first(key: tuple[Any, ...]) -> tuple[Any, ...]:
        place, null, vectors = key
        num_pooled = sum(value in (POOLED, None) for value in place)
        return -num_pooled, places[place], null, vectors == "held_out"

    entries = [by_key[key] for key in sorted(by_key, key=widest_first)]
    names = (CHANGES[0], FLOWS[0])
    return Table(
        "null-tests",
        "Ranks among vectors that mean nothing",
        (
            Column("model", is_number=False),
            Column("where", is_number=False),
            Column("coefficient"),
            Column("vectors", is_number=False),
            Column("null", is_number=False),
            *(
                column
                for name in names
                for column in (
                    *_columns([name]),
                    Column("rank", QUANTITIES[name].heading.removeprefix(f"{DELTA} ")),
                    Column("p"),
                )
            ),
        ),
        tuple(
            (
                word_cell(row["model"]),
                word_cell(_place(row)),
                coeff_cell(row["coeff"]),
                word_cell(KINDS[row["vectors"]]),
                word_cell(row["null"]),
                *(cell for name in names for cell in _rank_cells(of.get(name), name)),
            )
            for of in entries[:_MOST_ROWS]
            for row in [next(iter(of.values()))]
        ),
        "Random: directions drawn evenly. Shuffled: fitted after stereotype and anti-stereotype "
        "changed places in a random half of the examples, and scored under these labels, so these "
        "draws are as much in-sample as the vector that they are compared with. Rank 1: no draw "
        "moved as much, in the direction of the coefficient's sign if steering has one. p: the "
        "share of draws and the vector itself that moved as much; with k draws it cannot be "
        "smaller than 1 / (k + 1). summary/null_tests.csv has every row.",
    ).condensed()


def _rank_cells(row: _Row | None, name: str) -> tuple[Cell, ...]:
    if row is None:
        return (MISSING,) * 3
    return (
        _number_cell(name, row["value"]),
        Cell(f"{row['rank']:,} of {row['num_draws'] + 1:,}", row["rank"]),
        Cell(number(row["p"], 3), row["p"]),
    )


def nulls(summary: Summary) -> Table:
    """The fitted vectors compared with each null."""
    of_nulls = summary.nulls.to_pylist()
    if any(row["draw"] for row in of_nulls):
        return _ranges(summary)
    names = sorted({row["null"] for row in of_nulls})
    sets: dict[str, Sequence[_Row]] = {}
    for vectors, fitted in (summary.by_vectors if names else {}).items():
        of = f", {KINDS[vectors]}" if summary.held_out.num_rows else ""
        sets[f"fitted{of}"] = fitted
        for name in names:
            sets[f"{name}{of}"] = _where(summary.nulls_of(vectors), "null", name)
    return _beside(
        "nulls",
        "Compared with nulls: steering with vectors that mean nothing",
        "vectors",
        sets,
        _NULL_NOTE,
    )


def _ranges(summary: Summary) -> Table:
    """The fitted vectors, and the median and range over the draws of each null."""
    draws: dict[tuple[str, str], dict[tuple[Any, ...], list[_Row]]] = {}
    for vectors in summary.by_vectors:
        for draw in summary.nulls_of(vectors):
            of_null = draws.setdefault((vectors, draw["null"]), {})
            of_null.setdefault((*_key(draw), draw["coeff"]), []).append(draw)
    names = (*TESTED, "lms_change")
    entries: list[tuple[_Row, str, str, tuple[Cell, ...]]] = []
    with_nulls = {key for of_null in draws.values() for key in of_null}
    by_vectors = {
        # The widest rows that draws were made for: nulls may have fewer layers than the grid.
        vectors: [
            row
            for of_model in widest(
                row for row in rows if (*_key(row), row["coeff"]) in with_nulls
            ).values()
            for row in of_model
        ]
        for vectors, rows in summary.by_vectors.items()
    }
    for vectors, row in _side_by_side(by_vectors):
        key = (*_key(row), row["coeff"])
        entries.append((row, vectors, "fitted", _cells(row, names, is_marked=False)))
        for (of_vectors, null), of_null in draws.items():
            at = of_null.get(key)
            if of_vectors == vectors and at:
                cells = tuple(_range(at, name) for name in names)
                entries.append((row, vectors, f"{null}, {counted(len(at), 'draw')}", cells))
    return Table(
        "nulls",
        "Compared with nulls: steering with vectors that mean nothing",
        (
            Column("model", is_number=False),
            Column("where", is_number=False),
            Column("coefficient"),
            *_vectors_column(summary),
            Column("steered with", is_number=False),
            *_columns(names),
        ),
        tuple(
            (
                word_cell(row["model"]),
                word_cell(_place(row)),
                coeff_cell(row["coeff"]),
                *_vectors_cell(summary, vectors),
                word_cell(what),
                *cells,
            )
            for row, vectors, what, cells in entries[:_MOST_ROWS]
        ),
        f"Fitted: the estimate and its 95 % interval. Nulls: the median of the draws, and the "
        f"smallest to the largest of them. {_NULL_NOTE} summary/nulls.csv has every draw.",
    ).condensed()


def _range(draws: Sequence[_Row], name: str) -> Cell:
    digits, times = QUANTITIES[name].scale.digits, QUANTITIES[name].scale.times
    values = sorted(times * row[name] for row in draws if row[name] is not None)
    if not values:
        return MISSING
    middle = median(values)
    detail = f"{number(values[0], digits)} to {number(values[-1], digits)}"
    return Cell(number(middle, digits), middle, detail)


def compared(comparison: Comparison, number: int = 0) -> Table:
    """This run compared with another, over the cells that both have."""
    rows = comparison.rows.to_pylist()
    names = (comparison.name, comparison.other)
    return _beside(
        "compared" if not number else f"compared-{number + 1}",
        "Compared with another run",
        "run",
        {name: _where(rows, "run", name) for name in names},
        "Over the cells that both runs have. The single cells are in summary/compared.csv.",
    )


def differences(comparison: Comparison, number: int = 0) -> Table:
    """Paired differences between two runs."""
    return _differences(
        f"differences-{number + 1}",
        f"Differences: {comparison.name} minus {comparison.other}",
        comparison.differences.to_pylist(),
    )


def seeds(rows: Sequence[_Row]) -> Table:
    """How far the headline moves with the examples that ``data.seed`` draws."""
    num_runs = max((row["num_runs"] for row in rows), default=0)
    return Table(
        "seeds",
        f"The headline over {num_runs:,} runs with other examples",
        (
            Column("model", is_number=False),
            Column("split", is_number=False),
            Column("vectors", is_number=False),
            Column("estimate", is_number=False),
            Column("coefficient"),
            *(Column(name) for name in ("mean", "sd", "smallest", "largest")),
        ),
        tuple(
            (
                *(word_cell(row[name]) for name in ("model", "split")),
                word_cell(VECTORS[row["vectors"]]),
                word_cell(_columns([row["estimate"]])[0].label),
                coeff_cell(row["coeff"]),
                *(
                    _number_cell(row["estimate"], row[name])
                    for name in ("mean", "sd", "smallest", "largest")
                ),
            )
            for row in rows[:_MOST_ROWS]
        ),
        "Runs that differ only in data.seed. sd: standard deviation over runs, which fit their "
        "vectors to their own examples.",
    ).condensed()


def model_differences(summary: Summary) -> Table:
    """Paired differences between the models of the run."""
    rows = summary.differences.to_pylist()
    return _differences(
        "model-differences",
        "Differences between models",
        [
            row | {"model": f"{row['a']} minus {row['b']}"}
            for row in rows
            if row["kind"] == "models"
        ],
    )


_NO_DIFFERENCES = dict.fromkeys(
    f"{name}{end}" for name in _SUMMED_UP for end in ("", "_low", "_high", "_q")
)
"""``differences`` has no row for an estimate that is not defined."""


def _differences(name: str, caption: str, rows: Sequence[_Row]) -> Table:
    """Differences of the widest rows; all others are in summary/differences.csv."""
    by_key: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        shared = {k: row[k] for k in ("model", "split", "bias_type", "layer", "coeff")}
        of_key = by_key.setdefault(tuple(shared.values()), shared | _NO_DIFFERENCES)
        ends = (("", "difference"), ("_low", "low"), ("_high", "high"))
        of_key |= {f"{row['estimate']}{end}": row[column] for end, column in ends}
        # Cells of a table mark a number by its q; a difference has its own p in that place.
        of_key[f"{row['estimate']}_q"] = row["p"]
    chosen = [row for of_model in widest(by_key.values()).values() for row in of_model]
    return Table(
        name,
        caption,
        (
            Column("model", is_number=False),
            Column("where", is_number=False),
            Column("coefficient"),
            *_columns(_SUMMED_UP),
        ),
        tuple(
            (
                word_cell(row["model"]),
                word_cell(_place(row)),
                coeff_cell(row["coeff"]),
                *_cells(row, _SUMMED_UP),
            )
            for row in chosen[:_MOST_ROWS]
        ),
        f"Paired by target term: what both have in common cancels. *: p < {SIGNIFICANT}, and the "
        "interval excludes 0, for each number alone. summary/differences.csv has every row.",
    ).condensed()


def _where(rows: Sequence[_Row], key: str, value: str) -> list[_Row]:
    return [row for row in rows if row[key] == value]


def _beside(
    name: str, caption: str, what: str, by_name: Mapping[str, Sequence[_Row]], note: str
) -> Table:
    """What ``glance`` shows, and how many single cells are significant, of several sets of rows."""
    entries = sorted(
        (
            (model, row["coeff"], order, name, row, _significant(rows, model, row["coeff"]))
            for order, (name, rows) in enumerate(by_name.items())
            for model, of_model in widest(rows).items()
            for row in of_model
        ),
        key=lambda entry: entry[:3],
    )
    shown = (*FLOWS, "lms_change")
    return Table(
        name,
        caption,
        (
            Column("model", is_number=False),
            Column("where", is_number=False),
            Column("coefficient"),
            Column(what, is_number=False),
            *_columns(shown),
            Column(f"q < {SIGNIFICANT}", "flows of single cells"),
        ),
        tuple(
            (
                word_cell(model),
                word_cell(_place(row)),
                coeff_cell(coeff),
                word_cell(of),
                *_cells(row, shown),
                Cell(f"{num_significant:,} of {num_tested:,}", num_significant),
            )
            for model, coeff, _, of, row, (num_significant, num_tested) in entries[:_MOST_ROWS]
        ),
        note,
    ).condensed()


def _significant(rows: Sequence[Mapping[str, Any]], model: str, coeff: float) -> tuple[int, int]:
    """Net flows of single cells at a coefficient: those that are significant, and all."""
    q = [
        row[f"{name}_q"]
        for row in rows
        if row["model"] == model and row["coeff"] == coeff and is_cell(row)
        for name in FLOWS
        if row[f"{name}_q"] is not None
    ]
    return sum(value < SIGNIFICANT for value in q), len(q)


def dose_response(summary: Summary) -> Table:
    """How many examples follow the coefficient, and how many go against the largest one."""
    rows = summary.dose_response.to_pylist()[:_MOST_ROWS]
    at_largest = {
        "held_out": _at_largest_coeff(summary.held_out_pooled, summary.held_out),
        # Cross-fitted sweeps have held-out rows as their main ones.
        summary.vectors: _at_largest_coeff(summary.pooled, summary.cells),
    }
    return Table(
        "dose-response",
        "Dose-response of single examples",
        (
            Column("model", is_number=False),
            Column("where", is_number=False),
            Column("vectors", is_number=False),
            Column("n", "examples"),
            Column("coefficients", "with 0"),
            *_columns(MONOTONE),
            Column("against the largest coefficient", QUANTITIES["anti_steered"].scale.unit),
        ),
        tuple(
            (
                word_cell(row["model"]),
                word_cell(_place(row)),
                word_cell(VECTORS[row["vectors"]]),
                count_cell(row["num_examples"]),
                count_cell(row["num_points"]),
                *_cells(row, MONOTONE),
                *_cells(at_largest[row["vectors"]][_key(row)], ["anti_steered"]),
            )
            for row in rows
        ),
        "Rises at every step: examples whose gap between anti-stereotype and stereotype grows from "
        "each coefficient to the next larger one; without steering counts as coefficient 0. Of n "
        "coefficients in random order, 1 in n! would. Against the largest coefficient: examples "
        "whose gap moved the other way there.",
    ).condensed()


def _at_largest_coeff(*tables: pa.Table) -> dict[tuple[Any, ...], _Row]:
    """By place, the row with the coefficient that is largest in size."""
    rows = [row for table in tables for row in table.to_pylist()]
    ordered = sorted(rows, key=lambda row: abs(row["coeff"]))
    return {_key(row): row for row in ordered}


def _key(row: _Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", *AXES))


def baseline(summary: Summary) -> Table:
    """Every group before steering."""
    names = (*STEREOSET_ESTIMATES, *SHARES)
    return Table(
        "baseline",
        "Before steering",
        (
            *_group_columns(),
            Column("n", "examples"),
            *_columns(names),
        ),
        tuple(
            (
                *_group_cells(row),
                count_cell(row["num_examples"]),
                *_cells(row, names),
            )
            for row in summary.baseline.to_pylist()
        ),
    ).condensed()


def cells(summary: Summary) -> Table:
    """The complete cells, up to the number that a page holds."""
    num_rows = summary.cells.num_rows + summary.held_out.num_rows
    is_whole = num_rows <= _MOST_ROWS
    by_vectors = {summary.vectors: summary.cells.slice(0, _MOST_ROWS).to_pylist()}
    if summary.held_out.num_rows:
        by_vectors["held_out"] = summary.held_out.slice(0, _MOST_ROWS).to_pylist()
    rows = _side_by_side(by_vectors)[:_MOST_ROWS]
    names = (*TESTED, *SCORE_CHANGES, *_measured([row for _, row in rows]))
    of_held_out = ", held_out.csv and held_out_pooled.csv have those of held-out rows"
    of_held_out = of_held_out if summary.held_out.num_rows else ""
    return Table(
        "cells",
        "Every cell" if is_whole else f"The first {_MOST_ROWS:,} of {num_rows:,} cells",
        (
            *_group_columns(),
            Column("layer"),
            Column("coefficient"),
            *_vectors_column(summary),
            Column("n", "examples"),
            *_columns(names),
        ),
        tuple(
            (
                *_group_cells(row),
                Cell(str(row["layer"]), row["layer"]),
                coeff_cell(row["coeff"]),
                *_vectors_cell(summary, vectors),
                count_cell(row["num_examples"]),
                *_cells(row, names),
            )
            for vectors, row in rows
        ),
        f"{DELTA}: change in log-likelihood. *: {_MARK}. "
        f"summary/cells.csv and summary/pooled.csv have all columns{of_held_out}.",
    ).condensed()


def certificate(facts: Facts) -> Table:
    """By model, how far rows are from their second computation."""
    found = list(facts.certificate["models"].items())
    if len(found) > 1:
        found.append(("all models", facts.certificate["overall"]))
    tones = {"holds": "good", "broken": "grave"}
    return Table(
        "certificate",
        "Rows computed again",
        (
            Column("model", is_number=False),
            Column("verdict", is_number=False),
            Column("rows checked"),
            Column("largest difference", "nats"),
            Column("tolerance", "nats"),
            Column("changed choices"),
            Column("tasks checked"),
        ),
        tuple(
            (
                word_cell(name),
                Cell(of["verdict"], of["verdict"], tone=tones.get(of["verdict"], "caution")),
                count_cell(of["num_rows_checked"]),
                Cell(f"{of['largest_difference']:.2g}", of["largest_difference"])
                if of["num_rows_checked"]
                else MISSING,
                MISSING if of["tolerance"] is None else Cell(f"{of['tolerance']}", of["tolerance"]),
                count_cell(of["num_changed_choices"]),
                Cell(
                    f"{of['num_tasks_checked']:,} of {of['num_tasks']:,}", of["num_tasks_checked"]
                ),
            )
            for name, of in found
        ),
    )


def _place(row: Mapping[str, Any]) -> str:
    layer = name_of("layer", row["layer"])
    return ", ".join(
        (
            name_of("split", row["split"]),
            name_of("bias_type", row["bias_type"]),
            layer if row["layer"] is None else f"layer {layer}",
        )
    )


def _group_columns() -> tuple[Column, ...]:
    return tuple(Column(name, is_number=False) for name in ("model", "split", "bias type"))


def _group_cells(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    return tuple(word_cell(row[name]) for name in ("model", "split", "bias_type"))


def _columns(names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(of.heading, of.scale.unit) for of in map(QUANTITIES.__getitem__, names))


def _cells(row: _Row, names: Sequence[str], *, is_marked: bool = True) -> tuple[Cell, ...]:
    """Estimates of a row; those that are tested are marked if they are significant."""
    q = {name: row[f"{name}_q"] for name in names if name in TESTED} if is_marked else {}
    return tuple(_estimate(row, name, q.get(name)) for name in names)


def _measured(rows: Sequence[_Row]) -> list[str]:
    """The quantities with a formula of their own that any row has: some sweeps leave them out."""
    return [name for name in with_formula() if any(row[name] is not None for row in rows)]


def _estimate(row: _Row, name: str, q: float | None) -> Cell:
    scale, value = QUANTITIES[name].scale, row[name]
    found = Estimate.of(row, name, scale.times)
    if value is None or value != value:
        return MISSING
    if found is None:  # defined, without an interval
        return _number_cell(name, value)
    detail = f"{number(found.low, scale.digits)} to {number(found.high, scale.digits)}"
    mark = "*" if q is not None and q < SIGNIFICANT and found.is_clear else ""
    return Cell(found.text(scale.digits), found.value, detail, mark)


def _number_cell(name: str, value: float) -> Cell:
    scale = QUANTITIES[name].scale
    return Cell(number(scale.times * value, scale.digits), scale.times * value)
