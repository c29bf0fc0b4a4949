"""The tables of a persona sweep's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from jobs.page.table import MISSING, Cell, Column, Table, coeff_cell, count_cell, word_cell
from jobs.page.words import DASH, number
from jobs.persona.comparison import KEYS, Comparison
from jobs.persona.figures import on_own_vectors
from jobs.persona.page.finding import SIGNIFICANT
from jobs.persona.summary import SCORES, PersonaSummary

_Row = Mapping[Any, Any]


def steered(summary: PersonaSummary) -> Table:
    """Scores of steered answers, a row for each cell."""
    words = ("model", "trait", "positions")
    return Table(
        "steered",
        "Scores of steered answers",
        (
            *_word_columns(words),
            Column("layer"),
            Column("coefficient"),
            Column("n", "answers"),
            Column("trait score", "0 to 100"),
            Column("coherence", "0 to 100"),
            Column("trait score change", "from coefficient 0"),
            Column("coherence change", "from coefficient 0"),
        ),
        tuple(
            (
                *_words(row, words),
                Cell(str(row["layer"]), row["layer"]),
                coeff_cell(row["coeff"]),
                count_cell(row["num_answers"]),
                _estimate(row, "trait_score"),
                _estimate(row, "coherence"),
                _estimate(row, "trait_score_change"),
                _estimate(row, "coherence_change"),
            )
            for row in summary.steered.to_dict("records")
        ),
        "Changes are paired by question and rollout. Their intervals, and *: p < "
        f"{SIGNIFICANT}, hold for all of them together.",
    ).condensed()


def differences(comparison: Comparison, place: int) -> Table:
    """How the scores of this run differ from those of another one, a row for each cell.

    Args:
        place: of the comparison among those of the page.
    """
    words = ("model", "trait", "positions")
    by_cell: dict[tuple[Any, ...], dict[str, _Row]] = {}
    for row in comparison.differences.to_dict("records"):
        by_cell.setdefault(tuple(row[key] for key in KEYS), {})[row["estimate"]] = row
    rows = []
    for found in by_cell.values():
        first = next(iter(found.values()))
        rows.append(
            (
                *_words(first, words),
                Cell(str(first["layer"]), first["layer"]),
                coeff_cell(first["coeff"]),
                count_cell(first["num_pairs"]),
                *(_difference(found.get(name)) for name in SCORES),
            )
        )
    return Table(
        f"differences-{place}",
        f"{comparison.name} minus {comparison.other}",
        (
            *_word_columns(words),
            Column("layer"),
            Column("coefficient"),
            Column("n", "pairs of answers"),
            Column("trait score", "difference"),
            Column("coherence", "difference"),
        ),
        tuple(rows),
        "Paired by question and rollout; the answers to a question are a cluster. Each interval, "
        f"and *: p < {SIGNIFICANT}, is of one cell alone.",
    ).condensed()


def _difference(row: _Row | None) -> Cell:
    if row is None:
        return MISSING
    has_interval = not pd.isna(row["low"])
    ends = f"{number(row['low'], 1)} to {number(row['high'], 1)}" if has_interval else ""
    mark = "*" if row["p"] <= SIGNIFICANT else ""
    return Cell(number(row["difference"], 1), row["difference"], ends, mark)


def contrast(summary: PersonaSummary) -> Table:
    """The answers that vectors are made of."""
    words = ("model", "trait", "polarity")
    return Table(
        "contrast",
        "Contrast answers, which the vectors are made of",
        (
            *(Column(name, is_number=False) for name in words),
            Column("n", "answers"),
            Column("trait score", "mean, 0 to 100"),
            Column("coherence", "mean, 0 to 100"),
            Column("pairs"),
            Column("effective pairs"),
        ),
        tuple(
            (
                *_words(row, words),
                count_cell(row["num_answers"]),
                _number(row["trait_score"]),
                _number(row["coherence"]),
                _number(row["num_pairs"], digits=0),
                _number(row["num_effective_pairs"], digits=0),
            )
            for row in summary.contrast.to_dict("records")
        ),
    ).condensed()


def projections(summary: PersonaSummary) -> Table:
    """Mean projections on the trait's own vector, at the layers that are steered."""
    columns = (
        *_word_columns(("model", "trait", "positions")),
        Column("layer"),
        Column("answers", is_number=False),
        Column("coefficient"),
        Column("n", "answers"),
        Column("mean projection"),
        Column("median"),
        Column("middle half"),
    )
    return Table(
        "projections",
        "Projections on the trait's own vector",
        columns,
        tuple(_projection(row) for row in _shown(summary.projections)),
        "Of mean hidden states over an answer's tokens, at the layer that is steered. Projections "
        "are in the units of the hidden states.",
    ).condensed()


_CONDITIONS = {
    "negative": "asked not to show it",
    "positive": "asked to show it",
    "baseline": "not steered",
    "steered": "steered",
}


def _shown(table: pd.DataFrame) -> Sequence[_Row]:
    """Rows at steered layers: contrast answers, and steered ones at the layer they are steered."""
    if table.empty:
        return []
    own = on_own_vectors(table)
    layers = own["layer"].dropna().unique()
    is_contrast = own["layer"].isna() & own["at_layer"].isin(layers)
    rows = own[is_contrast | (own["layer"] == own["at_layer"]).fillna(False)]
    order = {name: place for place, name in enumerate(("negative", "positive"))}
    place = rows["condition"].map(order).fillna(len(order))
    rows = rows.assign(place=place).sort_values(["model", "trait", "at_layer", "place", "coeff"])
    found: Sequence[_Row] = rows.to_dict("records")
    return found


def _projection(row: _Row) -> tuple[Cell, ...]:
    positions: str = "" if pd.isna(row["positions"]) else str(row["positions"])
    return (
        *_words(row, ("model", "trait")),
        Cell(positions or DASH, positions),
        Cell(str(row["at_layer"]), row["at_layer"]),
        Cell(_CONDITIONS[row["condition"]], row["condition"]),
        MISSING if pd.isna(row["coeff"]) else coeff_cell(row["coeff"]),
        count_cell(row["num_answers"]),
        _number(row["mean"], digits=2),
        _number(row["median"], digits=2),
        MISSING
        if pd.isna(row["lower"])
        else Cell(f"{number(row['lower'], 2)} to {number(row['upper'], 2)}", row["lower"]),
    )


def _word_columns(names: Sequence[str]) -> tuple[Column, ...]:
    before = {"positions": "positions "}
    return tuple(Column(name, is_number=False, before=before.get(name, "")) for name in names)


def _words(row: _Row, names: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(word_cell(str(row[name])) for name in names)


def _estimate(row: _Row, name: str) -> Cell:
    if pd.isna(row[name]):
        return MISSING
    low, high = (number(row[f"{name}{end}"], 1) for end in ("_low", "_high"))
    mark = "*" if row.get(f"{name}_p", 1.0) <= SIGNIFICANT else ""
    return Cell(number(row[name], 1), row[name], f"{low} to {high}", mark)


def _number(value: float | None, digits: int = 1) -> Cell:
    if value is None or pd.isna(value):
        return MISSING
    return Cell(number(value, digits), value)
