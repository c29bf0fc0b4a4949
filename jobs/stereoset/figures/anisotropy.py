"""Anisotropy of the pooled states by layer, base against fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from jobs.figures.bands import legend_line
from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, blank, label_ticks, page, row_title
from jobs.figures.style import category_style
from jobs.stereoset.figures.selection import ordered
from jobs.stereoset.summary_keys import POOLED

PANELS = {
    "mean_cosine": "cosine to the mean direction",
    "mean_pairwise_cosine": "cosine of two states",
    "mean_norm": "norm",
}


def anisotropy(geometry: pd.DataFrame) -> Iterator[tuple[str, Drawing]]:
    """One figure: a row for each split, a line for each model, over all bias types."""
    bias_types = geometry.groupby("model")["bias_type"].transform("nunique")
    rows = geometry[(geometry["bias_type"] == POOLED) | (bias_types == 1)]
    rows = rows[rows["split"] != POOLED]
    if len(rows):
        yield "anisotropy", partial(_figure, rows)


def _figure(rows: pd.DataFrame) -> Figure:
    splits, layers = ordered(rows["split"]), ordered(rows["layer"])
    styles = {model: category_style(n) for n, model in enumerate(ordered(rows["model"]))}
    figure, axes = page(
        (len(splits), len(PANELS)),
        Layout(width=1.85, height=1.5, gap_x=0.5),
        "Anisotropy of the pooled states",
        "Means over the states of stereotype and anti-stereotype, where vectors are read.",
        [(legend_line(style), model) for model, style in styles.items()],
    )
    for panels, split in zip(axes, splits, strict=True):
        row_title(panels[0], split)
        for panel, (name, title) in zip(panels, PANELS.items(), strict=True):
            for model, style in styles.items():
                of = rows[(rows["split"] == split) & (rows["model"] == model)].sort_values("layer")
                if of.empty:
                    continue
                marker = "o" if len(of) <= 30 else None
                panel.plot(of["layer"], of[name], marker=marker, gid=model, **style)
            if not panel.lines:
                blank(panel)
            panel.set_title(title)
            label_ticks(panel.xaxis, layers, [str(layer) for layer in layers], "x")
            if name != "mean_norm":
                panel.set_ylim(min(0.0, panel.get_ylim()[0]), 1.02)
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    return figure
