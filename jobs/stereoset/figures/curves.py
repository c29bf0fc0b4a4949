"""Estimates over the coefficient, a line per layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jobs.figures.bands import draw_band, legend_line
from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, label_ticks, page, row_title
from jobs.figures.selection import spread
from jobs.figures.style import GREY, SEQUENTIAL
from jobs.page.words import coefficient
from jobs.stereoset.figures.pooling import over_bias_types, over_bias_types_and_layers
from jobs.stereoset.figures.selection import ordered
from jobs.stereoset.labels import LABELS, LEGEND_OF_LABELS
from steering_core.quantities import FAMILIES

_MOST_LAYERS = 4
_WIDE = 30.0
"""Ratio of coefficients from which on they are evenly spaced, as small ones would coincide."""


def curves(
    cells: pd.DataFrame, pooled: pd.DataFrame, steered_with: str = ""
) -> Iterator[tuple[str, Drawing]]:
    """A figure per split with several coefficients, pooled over bias types."""
    coeffs = ordered(cells["coeff"])
    by_layer, whole = (
        rows.assign(at=_positions(rows["coeff"], coeffs))
        for rows in (over_bias_types(cells, pooled), over_bias_types_and_layers(cells, pooled))
    )
    for split, of in by_layer.groupby("split"):
        if of["coeff"].nunique() > 1:
            yield (
                f"curves-{split}",
                partial(_figure, of, whole[whole["split"] == split], str(split), steered_with),
            )


def _figure(
    by_layer: pd.DataFrame, over_layers: pd.DataFrame, split: str, steered_with: str
) -> Figure:
    coeffs = ordered(by_layer["coeff"])
    models, all_layers = ordered(by_layer["model"]), ordered(by_layer["layer"])
    layers = spread(all_layers, _MOST_LAYERS)
    shades = mpl.colormaps[SEQUENTIAL](np.linspace(0, 0.9, len(layers)))
    lines: list[tuple[str, dict[str, Any], pd.DataFrame]] = [
        (f"layer {layer}", {"color": tuple(shade)}, by_layer[by_layer["layer"] == layer])
        for layer, shade in zip(layers, shades, strict=True)
    ]
    if len(all_layers) > 1:
        style = {"color": "black", "linestyle": "--"}
        lines.append((f"all {len(all_layers)} layers", style, over_layers))
    families = FAMILIES[:2]
    figure, axes = page(
        (len(models) * len(families), 3),
        Layout(width=1.85, height=1.3, gap_x=0.5),
        f"Estimates by coefficient, {split}",
        f"{steered_with}Over all bias types, with 95 % intervals. {LEGEND_OF_LABELS}."
        + (" Coefficients are spaced evenly, not to scale." if _is_wide(coeffs) else ""),
        [(legend_line(style), label) for label, style, _ in lines],
    )
    for index, family in enumerate(families):
        for row, model in enumerate(models):
            panels = axes[row * len(families) + index]
            row_title(panels[0], f"{model}, {family.stored_title}")
            for panel, name in zip(panels, family.names, strict=True):
                for _, style, rows in lines:
                    draw_band(panel, rows[rows["model"] == model], "at", name, style)
                panel.set_title(LABELS[name])
                panel.axhline(0, color=GREY, linewidth=0.5, zorder=0)
                ticks = by_layer.groupby("coeff")["at"].first()
                label_ticks(panel.xaxis, list(ticks), [coefficient(c) for c in coeffs], "x")
    for panel in axes[-1]:
        panel.set_xlabel("coefficient")
    return figure


def _is_wide(coeffs: Sequence[float]) -> bool:
    sizes = [abs(coeff) for coeff in coeffs if coeff]
    return bool(sizes) and max(sizes) > _WIDE * min(sizes)


def _positions(column: pd.Series, coeffs: list[float]) -> pd.Series:
    """Where on the axis each coefficient is."""
    places = {coeff: float(at) for at, coeff in enumerate(coeffs)}
    return column.map(places) if _is_wide(coeffs) else column
