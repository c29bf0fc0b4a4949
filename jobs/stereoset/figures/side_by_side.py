"""Estimates by layer beside each other: base and fine-tuned, fitted vectors and nulls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from jobs.figures.bands import draw_band, legend_line
from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, label_ticks, page, row_title
from jobs.figures.style import GREY, category_style
from jobs.identity import float_text
from jobs.page.words import coefficient
from jobs.stereoset.figures.pooling import over_bias_types
from jobs.stereoset.figures.selection import by_split_and_coeff, ordered
from jobs.stereoset.labels import FAMILIES, LABELS, LEGEND_OF_LABELS
from jobs.stereoset.summary_keys import POOLED

FITTED = "fitted vectors"


def models(cells: pd.DataFrame, pooled: pd.DataFrame) -> Iterator[tuple[str, Drawing]]:
    """A figure per split and coefficient that several models have, pooled over bias types."""
    for split, coeff, of in by_split_and_coeff(over_bias_types(cells, pooled)):
        if of["model"].nunique() > 1:
            title = f"Models by layer, {split}, coefficient {coefficient(coeff)}"
            yield f"models-{split}-coeff={float_text(coeff)}", partial(_figure, of, "model", title)


def nulls(
    cells: pd.DataFrame, pooled: pd.DataFrame, of_nulls: pd.DataFrame
) -> Iterator[tuple[str, Drawing]]:
    """A figure per model, split and coefficient: the fitted vectors and those of each null.

    Args:
        of_nulls: the summary's ``nulls``, cells and pooled.
    """
    steered = [_named(FITTED, cells, pooled)]
    for null, of in of_nulls.groupby("null"):
        is_pooled = of["split"].eq(POOLED) | of["bias_type"].eq(POOLED) | of["layer"].isna()
        steered.append(_named(str(null), of[~is_pooled], of[is_pooled]))
    for model, of_model in pd.concat(steered, ignore_index=True).groupby("model"):
        for split, coeff, of in by_split_and_coeff(of_model):
            if of["steered_with"].nunique() > 1:
                place = f"{model}, {split}, coefficient {coefficient(coeff)}"
                title = f"Vectors compared with nulls, {place}"
                name = f"nulls-{model}-{split}-coeff={float_text(coeff)}"
                yield name, partial(_figure, of, "steered_with", title)


def _named(name: str, cells: pd.DataFrame, pooled: pd.DataFrame) -> pd.DataFrame:
    return over_bias_types(cells, pooled).assign(steered_with=name)


def _figure(rows: pd.DataFrame, series: str, title: str) -> Figure:
    styles = {name: category_style(n) for n, name in enumerate(ordered(rows[series]))}
    layers = ordered(rows["layer"])
    figure, axes = page(
        (len(FAMILIES), 3),
        Layout(width=1.85, height=1.3, gap_x=0.5),
        title,
        f"Over all bias types, with 95 % intervals. {LEGEND_OF_LABELS}.",
        [(legend_line(style), str(of)) for of, style in styles.items()],
    )
    for panels, (family, names) in zip(axes, FAMILIES.items(), strict=True):
        row_title(panels[0], family)
        for panel, name in zip(panels, names, strict=True):
            for of, style in styles.items():
                draw_band(panel, rows[rows[series] == of], "layer", name, dict(style))
            panel.set_title(LABELS[name])
            panel.axhline(0, color=GREY, linewidth=0.5, zorder=0)
            label_ticks(panel.xaxis, layers, [str(layer) for layer in layers], "x")
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    return figure
