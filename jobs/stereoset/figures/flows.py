"""The paper's flow diagrams: what moves between S, A and U, in choices and in log-likelihood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ArrowStyle, Circle, FancyArrowPatch

from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, page, row_title
from jobs.figures.selection import spread
from jobs.figures.style import FAINT, GREY, SMALL_PT
from jobs.identity import float_text
from jobs.page.words import coefficient
from jobs.stereoset.figures.pooling import over_bias_types, over_bias_types_and_layers
from jobs.stereoset.figures.selection import by_split_and_coeff, largest, ordered
from jobs.stereoset.labels import CHANGES, COLORS, LEGEND_OF_LABELS

_NODES = {"s": (0.0, 0.0), "a": (1.0, 0.0), "u": (0.5, 0.85)}
_LABEL_AT = {
    "s2a": (0.5, -0.28, "center"),
    "u2a": (0.85, 0.5, "left"),
    "s2u": (0.15, 0.5, "right"),
}
_RADIUS = 0.14
_STEP = 2.1
"""From one diagram to the next."""
_UNIT = 0.62
"""Inches."""
_WIDEST_PT, _THINNEST_PT = 9.0, 0.7
_MOST_LAYERS = 4


@dataclass(frozen=True)
class _Kind:
    """What a row of diagrams shows, and how its numbers are written."""

    title: str
    prefix: str
    factor: float
    form: str

    def text(self, value: float) -> str:
        return "-" if pd.isna(value) else self.form.format(self.factor * abs(value))


_KINDS = (
    _Kind("choices: net share of examples", "flow_", 100.0, "{:.1f} %"),
    _Kind("log-likelihood: nats per token", "", 1.0, "{:.3f}"),
)


def flows(
    cells: pd.DataFrame,
    pooled: pd.DataFrame,
    headline: pd.DataFrame | None = None,
    steered_with: str = "",
) -> Iterator[tuple[str, Drawing]]:
    """A figure per split and coefficient, over bias types.

    Single layers are means over examples. All layers together are the paper's headline, as in its
    own flow diagrams, where that is there: every layer and bias type has the same weight.
    """
    by_layer = over_bias_types(cells, pooled)
    whole = over_bias_types_and_layers(cells, pooled)
    has_headline = headline is not None and not headline.empty
    if headline is not None and has_headline:
        whole = headline
    for split, coeff, of in by_split_and_coeff(by_layer):
        over_layers = whole[(whole["split"] == split) & (whole["coeff"] == coeff)]
        yield (
            f"flows-{split}-coeff={float_text(coeff)}",
            partial(
                _figure, of, over_layers, split, coeff, steered_with, has_headline=has_headline
            ),
        )


def _figure(
    by_layer: pd.DataFrame,
    over_layers: pd.DataFrame,
    split: str,
    coeff: float,
    steered_with: str,
    *,
    has_headline: bool,
) -> Figure:
    models, layers = ordered(by_layer["model"]), ordered(by_layer["layer"])
    columns = {
        f"layer {layer}": by_layer[by_layer["layer"] == layer].set_index("model")
        for layer in spread(layers, _MOST_LAYERS)
    }
    if has_headline:
        name = "all layers" if len(layers) > 1 else "all"
        columns[f"{name}, headline"] = over_layers.set_index("model")
    elif len(layers) > 1:
        columns["all layers"] = over_layers.set_index("model")
    average = (
        " Layers: mean over examples. Headline: the paper's, all layers and bias types with equal "
        "weight."
        if has_headline
        else " Mean over examples."
    )
    every = pd.concat(columns.values())
    width, height = _STEP * len(columns), 1.5
    figure, axes = page(
        (len(models) * len(_KINDS), 1),
        Layout(width * _UNIT, height * _UNIT, left=0.15, right=0.15, bottom=0.15, over=0.48),
        f"Net flows, {split}, coefficient {coefficient(coeff)}",
        f"{steered_with}Over all bias types.{average} {LEGEND_OF_LABELS}. Arrow width: size, "
        "on one scale for choices and one for log-likelihood. Gray: the 95 % interval contains 0 "
        "or is missing.",
    )
    for number, model in enumerate(models):
        for index, kind in enumerate(_KINDS):
            panel = axes[number * len(_KINDS) + index, 0]
            panel.set(xlim=(-0.5, width - 0.5), ylim=(-0.42, height - 0.42), aspect="equal")
            panel.set_anchor("W")
            panel.set_axis_off()
            row_title(panel, f"{model}, {kind.title}")
            most = largest(every, [f"{kind.prefix}{name}" for name in CHANGES])
            for column, (title, rows) in enumerate(columns.items()):
                left = column * _STEP
                panel.text(left - 0.4, height - 0.38, title, size=SMALL_PT)
                if model in rows.index:
                    _diagram(panel, left, rows.loc[model], kind, most)
                else:
                    panel.text(left + 0.5, 0.4, "not complete", ha="center", color=GREY)
    return figure


def _diagram(axes: Axes, left: float, row: pd.Series, kind: _Kind, most: float) -> None:
    nodes = {node: (left + x, y) for node, (x, y) in _NODES.items()}
    for name in CHANGES:
        column = f"{kind.prefix}{name}"
        value = row[column]
        x, y, align = _LABEL_AT[name]
        axes.text(left + x, y, kind.text(value), ha=align, va="center", size=SMALL_PT)
        if pd.isna(value) or value == 0:
            ends = [nodes[node] for node in name.split("2")]
            axes.plot(*zip(*ends, strict=True), ":", color=FAINT, linewidth=0.8, zorder=0)
            continue
        source, sink = name.split("2") if value > 0 else reversed(name.split("2"))
        is_clear = row[f"{column}_low"] > 0 or row[f"{column}_high"] < 0
        width = max(_THINNEST_PT, _WIDEST_PT * abs(value) / most)
        head = width + 4.0
        axes.add_patch(
            FancyArrowPatch(
                nodes[source],
                nodes[sink],
                arrowstyle=ArrowStyle(  # type: ignore[no-untyped-call]
                    "simple", head_length=0.8 * head, head_width=head, tail_width=width
                ),
                mutation_scale=1.0,
                shrinkA=8.0,
                shrinkB=8.0,
                linewidth=0,
                color=COLORS[name].light if is_clear else FAINT,
                gid=f"{column}:{source}>{sink}",
            )
        )
    for node, centre in nodes.items():
        axes.add_patch(Circle(centre, _RADIUS, facecolor="white", edgecolor="black", linewidth=0.7))
        axes.text(*centre, node.upper(), ha="center", va="center_baseline")
