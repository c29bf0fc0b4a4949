"""Cosines between a group's steering vectors at each two layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, blank, label_ticks, page, row_title
from jobs.figures.style import DIVERGING
from jobs.stereoset.figures.cosine import cosines
from jobs.stereoset.figures.selection import ordered


def vector_maps(vectors: pd.DataFrame) -> Iterator[tuple[str, Drawing]]:
    """A figure per model with several layers: a panel per bias type, a row per split."""
    whole = vectors[vectors["fold"].isna()]
    for model, of in whole.groupby("model"):
        if of["layer"].nunique() > 1:
            yield f"vectors-layers-{model}", partial(_figure, of, str(model))


def _figure(vectors: pd.DataFrame, model: str) -> Figure:
    splits, bias_types = ordered(vectors["split"]), ordered(vectors["bias_type"])
    columns = len(bias_types)
    side = min(2.4, (6.0 - 0.2 * (columns - 1)) / columns)
    figure, axes = page(
        (len(splits), columns),
        Layout(width=side, height=side, gap_x=0.15, right=0.7),
        "Cosines of the steering vectors of two layers",
        model,
    )
    for row, split in enumerate(splits):
        row_title(axes[row, 0], split)
        for panel, bias_type in zip(axes[row], bias_types, strict=True):
            panel.set_title(bias_type)
            chosen = (vectors["split"] == split) & (vectors["bias_type"] == bias_type)
            of = vectors[chosen].sort_values("layer")
            if of.empty:
                blank(panel)
                panel.set_axis_off()
                continue
            image = panel.imshow(
                cosines(np.stack(list(of["vector"]))),
                cmap=DIVERGING,
                vmin=-1,
                vmax=1,
                origin="lower",
                interpolation="nearest",
            )
            labels = [str(layer) for layer in of["layer"]]
            label_ticks(panel.xaxis, range(len(labels)), labels, "x")
            label_ticks(panel.yaxis, range(len(labels)), labels, "y")
            panel.tick_params(labelleft=panel is axes[row, 0])
        axes[row, 0].set_ylabel("layer")
        box = axes[row, -1].get_position()
        inch = 1 / figure.get_figwidth()
        bar = figure.add_axes((box.x1 + 0.1 * inch, box.y0, 0.1 * inch, box.height))
        figure.colorbar(image, cax=bar)
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    return figure
