"""Models beside each other, base against fine-tuned: estimates by layer."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from jobs.stereoset.figures.bands import draw_band, legend_line
from jobs.stereoset.figures.page import Layout, label_ticks, page, row_title
from jobs.stereoset.figures.pooling import over_bias_types
from jobs.stereoset.figures.selection import by_split_and_coeff, ordered
from jobs.stereoset.figures.style import (
    FAMILIES,
    GREY,
    LABELS,
    LEGEND_OF_LABELS,
    category_style,
)


def models(cells: pd.DataFrame, pooled: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """A figure per split and coefficient that several models have, pooled over bias types."""
    for split, coeff, of in by_split_and_coeff(over_bias_types(cells, pooled)):
        if of["model"].nunique() > 1:
            yield f"models-{split}-coeff{coeff:g}", _figure(of, split, coeff)


def _figure(rows: pd.DataFrame, split: str, coeff: float) -> Figure:
    styles = {model: category_style(n) for n, model in enumerate(ordered(rows["model"]))}
    layers = ordered(rows["layer"])
    figure, axes = page(
        (len(FAMILIES), 3),
        Layout(width=1.85, height=1.3, gap_x=0.5),
        f"Models by layer, {split}, coefficient {coeff:g}",
        f"Over all bias types, with 95 % intervals. {LEGEND_OF_LABELS}.",
        [(legend_line(style), model) for model, style in styles.items()],
    )
    for panels, (family, names) in zip(axes, FAMILIES.items(), strict=True):
        row_title(panels[0], family)
        for panel, name in zip(panels, names, strict=True):
            for model, style in styles.items():
                draw_band(panel, rows[rows["model"] == model], "layer", name, dict(style))
            panel.set_title(LABELS[name])
            panel.axhline(0, color=GREY, linewidth=0.5, zorder=0)
            label_ticks(panel.xaxis, layers, [str(layer) for layer in layers], "x")
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    return figure
