"""Estimates over the coefficient, a line per layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.stereoset.figures.bands import draw_band, legend_line
from jobs.stereoset.figures.page import Layout, page, row_title
from jobs.stereoset.figures.pooling import over_bias_types, over_bias_types_and_layers
from jobs.stereoset.figures.selection import ordered, spread
from jobs.stereoset.figures.style import FAMILIES, GREY, LABELS, LEGEND_OF_LABELS, SEQUENTIAL

_MOST_LAYERS = 4
_WIDE = 30.0
"""Ratio of coefficients from which on the axis is logarithmic."""


def curves(cells: pd.DataFrame, pooled: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """A figure per split with several coefficients, pooled over bias types."""
    by_layer = over_bias_types(cells, pooled)
    whole = over_bias_types_and_layers(cells, pooled)
    for split, of in by_layer.groupby("split"):
        if of["coeff"].nunique() > 1:
            yield f"curves-{split}", _figure(of, whole[whole["split"] == split], str(split))


def _figure(by_layer: pd.DataFrame, over_layers: pd.DataFrame, split: str) -> Figure:
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
    families = list(FAMILIES.items())[:2]
    figure, axes = page(
        (len(models) * len(families), 3),
        Layout(width=1.85, height=1.3, gap_x=0.5),
        f"Estimates by coefficient, {split}",
        f"Over all bias types, with 95 % intervals. {LEGEND_OF_LABELS}.",
        [(legend_line(style), label) for label, style, _ in lines],
    )
    for index, (family, names) in enumerate(families):
        for row, model in enumerate(models):
            panels = axes[row * len(families) + index]
            row_title(panels[0], f"{model}, {family}")
            for panel, name in zip(panels, names, strict=True):
                for _, style, rows in lines:
                    draw_band(panel, rows[rows["model"] == model], "coeff", name, style)
                _finish(panel, LABELS[name], by_layer["coeff"])
    for panel in axes[-1]:
        panel.set_xlabel("coefficient")
    return figure


def _finish(axes: Axes, title: str, coeffs: pd.Series) -> None:
    axes.set_title(title)
    axes.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    sizes = coeffs[coeffs != 0].abs()
    if sizes.max() > _WIDE * sizes.min():
        axes.set_xscale("symlog", linthresh=sizes.min())
