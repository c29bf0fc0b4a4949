"""The figures as plain data: what each shows, and one table of numbers that all are drawn from.

A figure has an axis, its series, and choosers for the other axes; the page's script draws the rows
that match. So the page holds each number once, however many views there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from jobs.page.words import PERCENT, coefficient
from jobs.stereoset.headline import VECTORS
from jobs.stereoset.labels import legend
from jobs.stereoset.page.chosen import shown
from jobs.stereoset.page.words import name_of
from jobs.stereoset.summary import Summary
from jobs.stereoset.summary_keys import POOLED
from steering_core.quantities import FAMILIES, FLOW_PAIRS, QUANTITIES

AXES = ("model", "split", "bias_type", "layer", "coeff")
_OF_STATES = ("model", "split", "bias_type", "layer")
_ROW_DIGITS = 4

Kind = Literal["lines", "bars", "heat", "moves"]


@dataclass(frozen=True)
class Measure:
    """Columns that share an axis, in one unit."""

    title: str
    unit: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        x: the horizontal axis.
        series: ``measure``: a line for each column of the chosen measure; ``model``: a line for
            each model, of a single column.
        choices: the axes that the reader chooses a value of.
        is_wide: whether it is as wide as the page.
        column: the one column that it shows, if it has no choice of measures.
        unit: of that column.
    """

    name: str
    title: str
    caption: str
    kind: Kind
    x: str
    series: Literal["measure", "model"]
    choices: tuple[str, ...]
    is_wide: bool = False
    column: str | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Drawn:
    """Everything that the page's script draws.

    Attributes:
        values: by axis, the label of each value; rows name values by their number in it.
        numeric: layers as numbers, None for rows pooled over them.
        start: by axis, what is chosen at first.
        columns: by name, axes and estimates of every row.
        note: which vectors and rows are shown.
    """

    figures: tuple[Figure, ...]
    measures: tuple[Measure, ...]
    names: Mapping[str, str]
    values: Mapping[str, tuple[str, ...]]
    numeric: tuple[int | None, ...]
    start: Mapping[str, int]
    columns: Mapping[str, list[Any]]
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain data that JSON holds."""
        return {
            **vars(self),  # not copied: the columns are most of the page
            "figures": [asdict(figure) for figure in self.figures],
            "measures": [asdict(measure) for measure in self.measures],
        }


MEASURES = tuple(Measure(of.title, of.unit, of.names) for of in FAMILIES)
_INTERVALS = f"95{PERCENT} intervals, each for one number alone"


def drawn(summary: Summary, coeff: float | None) -> Drawn:
    """The figures that a summary has the rows for.

    Args:
        coeff: the coefficient that is shown first; None: the first there is.
    """
    every = [*summary.shown_pooled.to_pylist(), *summary.shown_cells.to_pylist()]
    table = "held_out" if summary.held_out.num_rows else "cells"
    rows, note = shown(every, coeff, table)
    which = f"All figures are of {VECTORS[summary.shown_vectors]}."
    found: dict[str, list[Any]] = {axis: _values(axis, rows) for axis in AXES}
    number_of = {axis: {v: n for n, v in enumerate(values)} for axis, values in found.items()}
    columns: dict[str, list[Any]] = {
        axis: [number_of[axis][row[axis]] for row in rows] for axis in AXES
    }
    for name in [column for measure in MEASURES for column in measure.columns]:
        times = QUANTITIES[name].scale.times
        for end in ("", "_low", "_high"):
            columns[f"{name}{end}"] = [_number(row[f"{name}{end}"], times) for row in rows]
    anisotropy = {
        tuple(row[axis] for axis in _OF_STATES): row["mean_cosine"]
        for row in summary.geometry.to_pylist()
    }
    columns["mean_cosine"] = [
        _number(anisotropy.get(tuple(row[axis] for axis in _OF_STATES)), 1) for row in rows
    ]
    for pair in FLOW_PAIRS:
        times = QUANTITIES[f"flow_{pair}"].scale.times
        columns[f"flow_{pair}"] = [_number(row[f"flow_{pair}"], times) for row in rows]
    return Drawn(
        figures=_in_pairs(list(_figures(found, summary, has_geometry=bool(anisotropy)))),
        measures=MEASURES,
        names=legend(has_intent=summary.has_intent),
        values={axis: tuple(_label(axis, v) for v in values) for axis, values in found.items()},
        numeric=tuple(found["layer"]),
        start={axis: number_of[axis].get(coeff, 0) if axis == "coeff" else 0 for axis in AXES},
        columns=columns,
        note=f"{which} {note}".strip() if rows else "",
    )


def _values(axis: str, rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The values on an axis: pooled first, then in order."""
    found = {row[axis] for row in rows}
    pooled = [] if axis == "model" else [value for value in (POOLED, None) if value in found]
    return [*pooled, *sorted(value for value in found if value not in pooled)]


def _label(axis: str, value: Any) -> str:
    if axis == "coeff":
        return coefficient(value)
    return str(value) if axis == "model" else name_of(axis, value)


def _number(value: float | None, times: float) -> float | None:
    """Rounded to the digits that a figure shows; None if it is not a number."""
    if value is None or value != value:
        return None
    return float(f"{times * value:.{_ROW_DIGITS}g}")


def _in_pairs(figures: list[Figure]) -> tuple[Figure, ...]:
    """The figures, the last one wide if their number is odd."""
    if sum(not figure.is_wide for figure in figures) % 2:
        figures[-1] = replace(figures[-1], is_wide=True)
    return tuple(figures)


def _figures(
    found: Mapping[str, list[Any]], summary: Summary, *, has_geometry: bool
) -> Iterable[Figure]:
    num_layers = sum(layer is not None for layer in found["layer"])
    num_coeffs = len(found["coeff"])
    if not num_coeffs:
        return
    if num_layers > 1:
        yield Figure(
            "by-layer",
            "By layer",
            f"What steering changed at each layer. Bands: {_INTERVALS}.",
            "lines",
            "layer",
            "measure",
            ("measure", "model", "split", "bias_type", "coeff"),
            is_wide=True,
        )
    if num_layers > 1 and num_coeffs > 1:
        yield Figure(
            "grid",
            "Layers and coefficients",
            "Blue: below 0. Orange: above 0. Cells near 0 fade into the background.",
            "heat",
            "layer",
            "measure",
            ("column", "model", "split", "bias_type"),
            is_wide=True,
        )
    yield Figure(
        "flows",
        "Intended and side effects" if summary.has_intent else "Changes and net flows",
        "S: stereotype, A: anti-stereotype, U: unrelated. Every example has the same weight (the "
        f"paper's headline weighs bias types equally). Whiskers: {_INTERVALS}.",
        "bars",
        "coeff",
        "measure",
        ("measure", "model", "split", "bias_type", "layer"),
    )
    yield Figure(
        "moves",
        "Where choices went",
        "Left: choices before steering. Right: after it. Colors as in the other figures, in both "
        "directions. Gray: choices that stayed.",
        "moves",
        "coeff",
        "measure",
        ("model", "split", "bias_type", "layer", "coeff"),
    )
    if num_coeffs > 1:
        yield Figure(
            "by-coeff",
            "By coefficient",
            f"Coefficients are spaced evenly, not to scale. Bands: {_INTERVALS}.",
            "lines",
            "coeff",
            "measure",
            ("measure", "model", "split", "bias_type", "layer"),
        )
    if len(found["model"]) > 1:
        by_layer = num_layers > 1
        yield Figure(
            "models",
            "Models side by side",
            "All models score the same examples.",
            "lines",
            "layer" if by_layer else "coeff",
            "model",
            ("column", "split", "bias_type", "coeff" if by_layer else "layer"),
        )
    if num_layers > 1 and has_geometry:
        yield Figure(
            "anisotropy",
            "Anisotropy of the states",
            "Mean cosine between a pooled state and the mean of all, before steering. 1: all "
            "states point the same way.",
            "lines",
            "layer",
            "model",
            ("split", "bias_type"),
            column="mean_cosine",
            unit="mean cosine",
        )
