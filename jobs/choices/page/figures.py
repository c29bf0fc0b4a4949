"""The figures of a choices sweep's page: changes by coefficient, by layer, and as a heat map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.choices.words import CHANGED, VECTORS, Row, shown_metrics
from jobs.figures.selection import spread
from jobs.page.shown import Shown
from jobs.page.views import Figure, View, in_pairs, plain_number
from jobs.page.words import PERCENT, coefficient

_MOST_FITS, _MOST_LINES = 12, 6
_BANDS = f"Bands: 95{PERCENT} intervals, each for one number alone."
_CHOICES = ("metric", "vectors", "fit")


def drawn(tables: Mapping[str, pa.Table]) -> list[Figure]:
    """The figures that a summary has the rows for."""
    rows = [row for name in ("pooled", "cells", "held_out") for row in tables[name].to_pylist()]
    metrics = {f"{key}_change": of for key, of in shown_metrics(tables).items()}
    metrics[CHANGED.key] = CHANGED
    figures: list[Figure] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        figures += _of_model(model, [row for row in rows if row["model"] == model], metrics)
    return in_pairs(figures) if figures else []


def _of_model(model: str, rows: Sequence[Row], metrics: Mapping[str, Shown]) -> Iterator[Figure]:
    has_layers = len({row["layer"] for row in rows} - {None}) > 1
    has_coeffs = len({row["coeff"] for row in rows}) > 1
    if has_coeffs or not has_layers:
        yield Figure(
            f"by-coeff-{model}",
            f"Change by coefficient, {model}",
            f"What steering changed, a line for each layer. {_BANDS}",
            "lines",
            "coefficient",
            "",
            _CHOICES,
            _views(rows, metrics, lambda name, of: _lines(of, name, metrics, "coeff", "layer")),
            threshold=0.0,
            digits=3,
        )
    if not has_layers:
        return
    of_layers = [row for row in rows if row["layer"] is not None]
    yield Figure(
        f"by-layer-{model}",
        f"Change by layer, {model}",
        f"What steering changed, a line for each coefficient. {_BANDS}",
        "lines",
        "layer",
        "",
        _CHOICES,
        _views(of_layers, metrics, lambda name, of: _lines(of, name, metrics, "layer", "coeff")),
        threshold=0.0,
        digits=3,
    )
    if has_coeffs:
        yield Figure(
            f"grid-{model}",
            f"Layers and coefficients, {model}",
            "Blue: below 0. Orange: above 0. Cells near 0 fade into the background.",
            "heat",
            "layer",
            "coefficient",
            _CHOICES,
            _views(of_layers, metrics, lambda name, of: [_grid(of, name, metrics[name])]),
            is_wide=True,
            digits=2,
        )


def _views(rows: Sequence[Row], metrics: Mapping[str, Shown], series: Any) -> list[View]:
    """A view for each metric, kind of vectors and fit; held-out vectors and all fits come first."""
    kinds = sorted({row["vectors"] for row in rows}, key=lambda name: name != "held_out")
    named = sorted({row["fit"] for row in rows} - {None})
    has_all = any(row["fit"] is None for row in rows)
    fits = [*([None] if has_all else []), *spread(named, _MOST_FITS)]
    return [
        View(
            (shown.label, VECTORS[kind], "all fits" if fit is None else fit),
            series(name, [r for r in rows if r["vectors"] == kind and r["fit"] == fit]),
            _unit(name, shown),
        )
        for name, shown in metrics.items()
        for kind in kinds
        for fit in fits
    ]


def _unit(name: str, shown: Shown) -> str:
    """Title of an axis; the metric's own name may be too long for one."""
    if name == CHANGED.key:
        return "% of examples"
    return f"change, {shown.change_unit}" if shown.change_unit else "change"


def _lines(
    rows: Sequence[Row], name: str, metrics: Mapping[str, Shown], along: str, series: str
) -> list[dict[str, Any]]:
    values = sorted({row[series] for row in rows} - {None})
    chosen = [*([None] if any(row[series] is None for row in rows) else [])]
    chosen += spread(values, _MOST_LINES)
    return [
        _line(
            _name(series, value),
            [row for row in rows if row[series] == value],
            name,
            along,
            metrics[name].times,
        )
        for value in chosen
    ]


def _name(series: str, value: Any) -> str:
    if value is None:
        return "mean over layers"
    return f"layer {value}" if series == "layer" else f"coefficient {coefficient(value)}"


def _line(title: str, rows: Sequence[Row], name: str, along: str, times: float) -> dict[str, Any]:
    points = sorted(
        (row for row in rows if row[name] is not None), key=lambda row: float(row[along])
    )
    return {
        "name": title,
        "x": [float(row[along]) for row in points],
        "y": [_scaled(row[name], times) for row in points],
        "low": [_scaled(row[f"{name}_low"], times) for row in points],
        "high": [_scaled(row[f"{name}_high"], times) for row in points],
        "marked": [False] * len(points),
    }


def _grid(rows: Sequence[Row], name: str, shown: Shown) -> dict[str, Any]:
    layers = sorted({row["layer"] for row in rows})
    coeffs = sorted({row["coeff"] for row in rows}, reverse=True)
    value = {(row["layer"], row["coeff"]): _scaled(row[name], shown.times) for row in rows}
    return {
        "x": [str(layer) for layer in layers],
        "y": [coefficient(coeff) for coeff in coeffs],
        "z": [[value.get((layer, coeff)) for layer in layers] for coeff in coeffs],
    }


def _scaled(value: float | None, times: float) -> float | None:
    return None if value is None else plain_number(times * value)
