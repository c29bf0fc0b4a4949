"""The main estimates over layer and coefficient, as colors about zero."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, label_ticks, page, row_title
from jobs.figures.style import DIVERGING, FAINT
from jobs.page.words import coefficient
from jobs.stereoset.figures.pooling import over_bias_types
from jobs.stereoset.figures.selection import largest, ordered
from jobs.stereoset.labels import LABELS, LEGEND_OF_LABELS
from steering_core.quantities import FAMILIES


def heat_maps(
    cells: pd.DataFrame, pooled: pd.DataFrame, steered_with: str = ""
) -> Iterator[tuple[str, Drawing]]:
    """A figure per model and split with several cells, pooled over bias types."""
    for (model, split), of in over_bias_types(cells, pooled).groupby(["model", "split"]):
        if len(of) > 1:
            draw = partial(_figure, of, str(model), str(split), steered_with)
            yield f"heat-map-{model}-{split}", draw


def _figure(rows: pd.DataFrame, model: str, split: str, steered_with: str) -> Figure:
    layers, coeffs = ordered(rows["layer"]), ordered(rows["coeff"])
    figure, axes = page(
        (len(FAMILIES), 3),
        Layout(width=1.65, height=min(3.2, max(1.1, 0.13 * len(layers))), right=0.75),
        f"Estimates by layer and coefficient, {split}",
        f"{model}, over all bias types. {steered_with}{LEGEND_OF_LABELS}. Gray: not complete.",
    )
    for panels, family in zip(axes, FAMILIES, strict=True):
        row_title(panels[0], family.stored_title)
        limit = largest(rows, family.names) or 1.0
        image: AxesImage | None = None
        for panel, name in zip(panels, family.names, strict=True):
            values = rows.pivot(index="layer", columns="coeff", values=name)
            image = panel.imshow(
                values.reindex(index=layers, columns=coeffs),
                cmap=DIVERGING,
                vmin=-limit,
                vmax=limit,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                gid=name,
            )
            panel.set_facecolor(FAINT)
            panel.set_title(LABELS[name])
            label_ticks(panel.xaxis, range(len(coeffs)), [coefficient(c) for c in coeffs], "x")
            label_ticks(panel.yaxis, range(len(layers)), [str(layer) for layer in layers], "y")
            panel.tick_params(labelleft=panel is panels[0])
        panels[0].set_ylabel("layer")
        box = panels[-1].get_position()
        inch = 1 / figure.get_figwidth()
        bar = figure.add_axes((box.x1 + 0.1 * inch, box.y0, 0.1 * inch, box.height))
        assert image is not None
        figure.colorbar(image, cax=bar)
    for panel in axes[-1]:
        panel.set_xlabel("coefficient")
    return figure
