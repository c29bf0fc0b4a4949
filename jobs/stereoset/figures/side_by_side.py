"""Estimates by layer beside each other: base and fine-tuned, fitted vectors and nulls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from jobs.stereoset.labels import LABELS, LEGEND_OF_LABELS
from jobs.stereoset.summary_keys import POOLED
from steering_core.quantities import FAMILIES

FITTED = "fitted vectors"


def models(
    cells: pd.DataFrame, pooled: pd.DataFrame, steered_with: str = ""
) -> Iterator[tuple[str, Drawing]]:
    """A figure per split and coefficient that several models have, pooled over bias types."""
    for split, coeff, of in by_split_and_coeff(over_bias_types(cells, pooled)):
        if of["model"].nunique() > 1:
            title = f"Models by layer, {split}, coefficient {coefficient(coeff)}"
            draw = partial(_figure, of, "model", title, steered_with)
            yield f"models-{split}-coeff={float_text(coeff)}", draw


def held_out(
    cells: pd.DataFrame, pooled: pd.DataFrame, in_sample: pd.DataFrame
) -> Iterator[tuple[str, Drawing]]:
    """A figure per model, split and coefficient: in-sample and held-out vectors.

    Args:
        cells, pooled: of held-out vectors.
        in_sample: cells and pooled cells of in-sample ones.
    """
    of_both = [
        _named("in-sample vectors", *_apart(in_sample)),
        _named("held-out vectors", cells, pooled),
    ]
    yield from _compared(of_both, "held-out", "In-sample and held-out vectors", "")


def nulls(
    cells: pd.DataFrame, pooled: pd.DataFrame, of_nulls: pd.DataFrame, steered_with: str = ""
) -> Iterator[tuple[str, Drawing]]:
    """A figure per model, split and coefficient: the fitted vectors and those of each null.

    Of a null with several draws, the median and the range from the smallest to the largest.

    Args:
        of_nulls: the summary's ``nulls``, cells and pooled, that stand for these vectors.
    """
    steered = [_named(FITTED, cells, pooled)]
    for null, of in of_nulls.groupby("null"):
        draws = [_named(str(null), *_apart(draw)) for _, draw in of.groupby("draw", dropna=False)]
        steered.append(draws[0] if len(draws) == 1 else _range(draws))
    yield from _compared(steered, "nulls", "Vectors compared with nulls", steered_with)


def _compared(
    sets: list[pd.DataFrame], kind: str, title: str, steered_with: str
) -> Iterator[tuple[str, Drawing]]:
    for model, of_model in pd.concat(sets, ignore_index=True).groupby("model"):
        for split, coeff, of in by_split_and_coeff(of_model):
            if of["steered_with"].nunique() > 1:
                place = f"{model}, {split}, coefficient {coefficient(coeff)}"
                name = f"{kind}-{model}-{split}-coeff={float_text(coeff)}"
                yield name, partial(_figure, of, "steered_with", f"{title}, {place}", steered_with)


def _apart(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells, and pooled cells."""
    is_pooled = rows["split"].eq(POOLED) | rows["bias_type"].eq(POOLED) | rows["layer"].isna()
    return rows[~is_pooled], rows[is_pooled]


def _range(draws: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Each estimate's median over draws, with the smallest and the largest as its interval."""
    names = [name for family in FAMILIES for name in family.names]
    by = pd.concat(draws).groupby(["model", "split", "layer", "coeff", "steered_with"])[names]
    found = by.median().join([by.min().add_suffix("_low"), by.max().add_suffix("_high")])
    label = f"{draws[0]['steered_with'].iloc[0]}: median and range of {len(draws)} draws"
    return found.reset_index().assign(steered_with=label)


def _named(name: str, cells: pd.DataFrame, pooled: pd.DataFrame) -> pd.DataFrame:
    return over_bias_types(cells, pooled).assign(steered_with=name)


def _figure(rows: pd.DataFrame, series: str, title: str, steered_with: str) -> Figure:
    styles = {name: category_style(n) for n, name in enumerate(ordered(rows[series]))}
    layers = ordered(rows["layer"])
    figure, axes = page(
        (len(FAMILIES), 3),
        Layout(width=1.85, height=1.3, gap_x=0.5),
        title,
        f"{steered_with}Over all bias types, with 95 % intervals. {LEGEND_OF_LABELS}.",
        [(legend_line(style), str(of)) for of, style in styles.items()],
    )
    for panels, family in zip(axes, FAMILIES, strict=True):
        row_title(panels[0], family.stored_title)
        for panel, name in zip(panels, family.names, strict=True):
            for of, style in styles.items():
                draw_band(panel, rows[rows[series] == of], "layer", name, dict(style))
            panel.set_title(LABELS[name])
            panel.axhline(0, color=GREY, linewidth=0.5, zorder=0)
            label_ticks(panel.xaxis, layers, [str(layer) for layer in layers], "x")
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    return figure
