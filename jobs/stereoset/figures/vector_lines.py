"""Numbers of steering vectors by layer, as lines: norms, and cosines within a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jobs.figures.bands import legend_line
from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, blank, label_ticks, page, row_title
from jobs.figures.style import GREY, category_style
from jobs.stereoset.figures.cosine import cosines
from jobs.stereoset.figures.selection import ordered

Lines = Mapping[str, "pd.Series[float]"]
"""By label, a number by layer."""


def vector_lines(vectors: pd.DataFrame) -> Iterator[tuple[str, Drawing]]:
    """Norms; cosines between bias types, where there are several; between folds, likewise."""
    kinds: dict[str, tuple[Callable[[pd.DataFrame], Lines], str, str]] = {
        "vectors-norms": (norms, "Norms of the steering vectors", "norm"),
        "vectors-bias-types": (
            between_bias_types,
            "Cosines of the steering vectors of two bias types",
            "cosine",
        ),
        "vectors-folds": (
            between_folds,
            "Cosines of the steering vectors of two folds, mean over pairs",
            "cosine",
        ),
    }
    for name, (lines_of, title, unit) in kinds.items():
        lines = {
            (str(model), str(split)): lines_of(of)
            for (model, split), of in vectors.groupby(["model", "split"])
        }
        if any(lines.values()):
            yield name, partial(_figure, lines, title, unit)


def norms(vectors: pd.DataFrame) -> Lines:
    """Norm of each bias type's vector by layer."""
    return {
        bias_type: of.map(np.linalg.norm).sort_index() for bias_type, of in _whole(vectors).items()
    }


def between_bias_types(vectors: pd.DataFrame) -> Lines:
    """Cosine of the vectors of each two bias types by layer."""
    found = {}
    for (one, of_one), (two, of_two) in combinations(_whole(vectors).items(), 2):
        layers = of_one.index.intersection(of_two.index).sort_values()
        values = [cosines(np.stack([of_one[layer], of_two[layer]]))[0, 1] for layer in layers]
        found[f"{one}, {two}"] = pd.Series(values, index=layers, dtype=float)
    return found


def between_folds(vectors: pd.DataFrame) -> Lines:
    """Mean cosine over the pairs of folds of each bias type by layer; none where not cross-fitted.

    Two of k folds share k - 2 of the k parts that they were fitted from.
    """
    fitted = vectors[vectors["fold"].notna()]
    return {
        str(bias_type): of.groupby("layer")["vector"].agg(_mean_of_pairs)
        for bias_type, of in fitted.groupby("bias_type")
    }


def _whole(vectors: pd.DataFrame) -> dict[str, pd.Series]:
    whole = vectors[vectors["fold"].isna()]
    return {
        str(bias_type): of.set_index("layer")["vector"]
        for bias_type, of in whole.groupby("bias_type")
    }


def _mean_of_pairs(vectors: pd.Series) -> float:
    matrix = cosines(np.stack(list(vectors)))
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())


def _figure(lines: Mapping[tuple[str, str], Lines], title: str, unit: str) -> Figure:
    models, splits = (ordered(key[axis] for key in lines) for axis in (0, 1))
    labels = ordered(label for of in lines.values() for label in of)
    styles = {label: category_style(number) for number, label in enumerate(labels)}
    figure, axes = page(
        (len(models), len(splits)),
        Layout(width=2.9, height=1.7, gap_x=0.4),
        title,
        legend=[(legend_line(style), label) for label, style in styles.items()],
    )
    for row, model in enumerate(models):
        row_title(axes[row, 0], model)
        for panel, split in zip(axes[row], splits, strict=True):
            panel.set_title(split)
            of = lines.get((model, split))
            if not of:
                blank(panel)
                panel.set_axis_off()
                continue
            for label, values in of.items():
                marker = "o" if len(values) <= 30 else None
                panel.plot(values.index, values, marker=marker, gid=label, **styles[label])
            layers = ordered(layer for values in of.values() for layer in values.index)
            label_ticks(panel.xaxis, layers, [str(layer) for layer in layers], "x")
            if unit == "cosine":
                panel.axhline(0, color=GREY, linewidth=0.5, zorder=0)
                panel.set_ylim(min(-0.05, panel.get_ylim()[0]), 1.02)
        axes[row, 0].set_ylabel(unit)
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    return figure
