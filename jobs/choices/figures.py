"""Figures of a choices sweep as files: changes by coefficient, a line for each layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure

from jobs.choices.words import CHANGED, VECTORS, shown_metrics
from jobs.figures.bands import draw_band, legend_line
from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, label_ticks, page
from jobs.figures.selection import spread
from jobs.figures.style import GREY, SEQUENTIAL
from jobs.page.shown import Shown
from jobs.page.words import coefficient
from jobs.side_effects.figures import NAMES as SIDE_EFFECTS

NAMES = re.compile(f"changes-.*|{SIDE_EFFECTS.pattern}")
"""Of all figures of a report."""
_MOST_LAYERS, _PER_ROW = 4, 3


def planned_figures(tables: Mapping[str, pa.Table]) -> Mapping[str, Drawing]:
    """Figures by name, still to be drawn: one for each model that has several coefficients."""
    return dict(_planned(tables))


def _planned(tables: Mapping[str, pa.Table]) -> Iterator[tuple[str, Drawing]]:
    held_out = tables["held_out"].num_rows > 0
    single = tables["held_out" if held_out else "cells"].to_pandas()
    rows = pd.concat([tables["pooled"].to_pandas(), single], ignore_index=True)
    metrics = {f"{key}_change": of for key, of in shown_metrics(tables).items()}
    metrics[CHANGED.key] = CHANGED
    for model in single["model"].unique():
        mine = rows[rows["model"] == model]
        kind = "held_out" if held_out else single["vectors"].iloc[0]
        mine = mine[mine["vectors"] == kind]
        if mine["fit"].isna().any():
            mine = mine[mine["fit"].isna()]
        elif mine["fit"].nunique() > 1:
            continue  # not all fits are complete
        if mine["coeff"].nunique() > 1:
            yield f"changes-{model}", partial(_figure, mine, metrics, str(model), kind)


def _figure(rows: pd.DataFrame, metrics: Mapping[str, Shown], model: str, kind: str) -> Figure:
    lines = _lines(rows)
    num_rows = -(-len(metrics) // _PER_ROW)
    figure, axes = page(
        (num_rows, min(_PER_ROW, len(metrics))),
        Layout(width=1.85, height=1.4, gap_x=0.55),
        f"Changes by coefficient, {model}",
        f"Vectors: {VECTORS[kind]}. Over all examples, with 95 % intervals, each for one number "
        "alone.",
        [(legend_line(style), label) for label, style, _ in lines],
    )
    coeffs = sorted(rows["coeff"].unique())
    for panel, (name, shown) in zip(axes.flat, metrics.items(), strict=False):
        ends = [f"{name}{end}" for end in ("", "_low", "_high")]
        for _, style, of_line in lines:
            scaled = of_line.assign(**{end: of_line[end] * shown.times for end in ends})
            draw_band(panel, scaled, "coeff", name, style)
        panel.axhline(0, color=GREY, linewidth=0.5, zorder=0)
        panel.set_title(shown.label if len(shown.label) < 34 else shown.key)
        panel.set_ylabel("% of examples" if name == CHANGED.key else shown.change_unit)
        label_ticks(panel.xaxis, coeffs, [coefficient(c) for c in coeffs], "x")
    for panel in axes.flat[len(metrics) :]:
        panel.set_axis_off()
    for panel in axes[-1]:
        panel.set_xlabel("coefficient")
    return figure


def _lines(rows: pd.DataFrame) -> Sequence[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Some layers, and the mean over all of them."""
    layers = spread(sorted(int(layer) for layer in rows["layer"].dropna().unique()), _MOST_LAYERS)
    shades = mpl.colormaps[SEQUENTIAL](np.linspace(0, 0.9, len(layers)))
    lines: list[tuple[str, dict[str, Any], pd.DataFrame]] = [
        (f"layer {layer}", {"color": tuple(shade)}, rows[rows["layer"] == layer])
        for layer, shade in zip(layers, shades, strict=True)
    ]
    over_layers = rows[rows["layer"].isna()]
    if len(over_layers):
        style = {"color": "black", "linestyle": "--"}
        lines.append(("mean over layers", style, over_layers))
    return lines
