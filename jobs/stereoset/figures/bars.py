"""Change in log-likelihood by layer: three bars a layer, a panel per bias type, a row per model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, blank, label_ticks, page, row_title
from jobs.figures.style import GREY
from jobs.identity import float_text
from jobs.page.words import coefficient
from jobs.stereoset.figures.selection import by_split_and_coeff, ordered
from jobs.stereoset.labels import CHANGES, COLORS, LEGEND_OF_LABELS, legend

_BAR = 0.27
_WHISKER_PT = {False: 0.5, True: 0.25}
"""By whether there are many layers."""
_FEW, _MANY = 8, 30
"""Layers that a quarter, and a half, of a page's width has room for."""


def bars(
    cells: pd.DataFrame, steered_with: str = "", *, has_intent: bool
) -> Iterator[tuple[str, Drawing]]:
    """A figure per split and coefficient.

    Args:
        steered_with: a sentence that begins the caption: ``Held-out vectors.``
        has_intent: whether the legend calls one change intended and the others side effects.
    """
    names = legend(has_intent=has_intent)
    for split, coeff, of in by_split_and_coeff(cells):
        draw = partial(_figure, of, split, coeff, names, steered_with)
        yield f"bars-{split}-coeff={float_text(coeff)}", draw


def _figure(
    cells: pd.DataFrame, split: str, coeff: float, names: Mapping[str, str], steered_with: str
) -> Figure:
    models, bias_types = ordered(cells["model"]), ordered(cells["bias_type"])
    layers = ordered(cells["layer"])
    most = 4 if len(layers) <= _FEW else 2 if len(layers) <= _MANY else 1
    columns = min(most, len(bias_types))
    rows_each = -(-len(bias_types) // columns)
    figure, axes = page(
        (len(models) * rows_each, columns),
        Layout(width=(6.4 - 0.15 * (columns - 1)) / columns, height=1.2, gap_x=0.15),
        f"Change in log-likelihood by layer, {split}, coefficient {coefficient(coeff)}",
        f"{steered_with}Steered minus baseline, mean over examples, with 95 % intervals. "
        f"{LEGEND_OF_LABELS}.",
        [(Patch(color=COLORS[name].light), names[name]) for name in CHANGES],
    )
    for number, model in enumerate(models):
        of_model = axes[number * rows_each : (number + 1) * rows_each]
        row_title(of_model[0, 0], model)
        for index, panel in enumerate(of_model.flat):
            if index:
                panel.sharey(of_model[0, 0])
            if index >= len(bias_types):
                panel.set_axis_off()
                continue
            chosen = (cells["model"] == model) & (cells["bias_type"] == bias_types[index])
            panel.set_title(bias_types[index])
            _draw(panel, cells[chosen], layers)
            if index % columns:
                panel.tick_params(labelleft=False)
            else:
                panel.set_ylabel("nats per token")
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    return figure


def _draw(axes: Axes, cells: pd.DataFrame, layers: list[int]) -> None:
    if cells.empty:
        blank(axes)
    at = {layer: index for index, layer in enumerate(layers)}
    x = np.asarray([at[layer] for layer in cells["layer"]], float)
    for number, name in enumerate(CHANGES):
        left = x + (number - 1) * _BAR
        axes.add_collection(_rectangles(left, cells[name].to_numpy(), name))
        axes.vlines(
            left,
            cells[f"{name}_low"],
            cells[f"{name}_high"],
            colors="black",
            linewidth=_WHISKER_PT[len(layers) > _MANY],
        )
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.autoscale_view(scalex=False)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    label_ticks(axes.xaxis, range(len(layers)), [str(layer) for layer in layers], "x")


def _rectangles(x: np.ndarray, heights: np.ndarray, name: str) -> PolyCollection:
    """Bars as one artist: hundreds of patches would take seconds."""
    left, right, zero = x - _BAR / 2, x + _BAR / 2, np.zeros_like(x)
    corners = ((left, zero), (left, heights), (right, heights), (right, zero))
    vertices = np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)
    return PolyCollection(list(vertices), facecolor=COLORS[name].light, linewidth=0, gid=name)
