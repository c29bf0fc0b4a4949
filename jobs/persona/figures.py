"""Figures of a persona sweep, made of its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from jobs.figures.bands import draw_band, legend_line
from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, label_ticks, page, row_title
from jobs.figures.selection import spread
from jobs.figures.style import DIVERGING, FAINT, GREY, category_style, styled
from jobs.page.words import coefficient
from jobs.persona.questions import QuestionsAsked, questions_asked
from jobs.persona.tables import FROM_FILE
from jobs.side_effects.figures import NAMES as SIDE_EFFECTS

if TYPE_CHECKING:  # it loads torch, which processes that draw figures do without
    from jobs.persona.summary import PersonaSummary

NAMES = re.compile(rf"(scores|projections|cosines)-.*|{SIDE_EFFECTS.pattern}")
"""Of all figures of a report."""
BROKEN_DOWN = 50.0
"""Coherence below which the text is said to have broken down."""
COSINES_NOTE = "Of the vectors that steer. 1: the same direction; 0: at right angles."
_MOST_LAYERS = 8


def planned_figures(summary: PersonaSummary) -> Mapping[str, Drawing]:
    """Figures by name, still to be drawn; a kind without data is left out."""
    planned: list[tuple[str, Drawing]] = []
    if len(summary.steered):
        planned += _scores(summary.steered)
    if len(summary.projections):
        planned += _projections(summary)
    if len(summary.cosines):
        planned += _cosines(summary)
    return dict(planned)


def make_figures(summary: PersonaSummary) -> Mapping[str, Figure]:
    """``planned_figures``, drawn; ``figure.savefig`` writes one, a notebook displays it."""
    with styled():
        return {name: draw() for name, draw in planned_figures(summary).items()}


def _scores(steered: pd.DataFrame) -> Iterator[tuple[str, Drawing]]:
    for (model, trait), rows in steered.groupby(["model", "trait"]):
        yield f"scores-{model}-{trait}", partial(_scores_figure, rows, str(model), str(trait))


def _scores_figure(rows: pd.DataFrame, model: str, trait: str) -> Figure:
    """Trait score and coherence against the coefficient, a line per layer and positions."""
    lines = [
        (f"layer {layer}, {positions}", of)
        for (layer, positions), of in rows.groupby(["layer", "positions"])
    ]
    styles = {label: category_style(n) for n, (label, _) in enumerate(lines)}
    coeffs = sorted(rows["coeff"].unique())
    figure, axes = page(
        (1, 2),
        Layout(width=2.9, height=2.0, gap_x=0.5),
        f"Scores by coefficient, {model}, {trait}",
        f"Judged 0 to 100, with 95 % intervals over questions. Dashed: {BROKEN_DOWN:g}. Crosses: "
        f"coherence below {BROKEN_DOWN:g}, the text has broken down.",
        [(legend_line(style), label) for label, style in styles.items()],
    )
    for panel, name, title in (
        (axes[0, 0], "trait_score", trait),
        (axes[0, 1], "coherence", "coherence"),
    ):
        for label, of in lines:
            draw_band(panel, of, "coeff", name, dict(styles[label]))
            broken = of[of["coherence"] < BROKEN_DOWN]
            panel.plot(broken["coeff"], broken[name], "x", color="black", markersize=5, gid="x")
        panel.axhline(BROKEN_DOWN, color=GREY, linewidth=0.8, linestyle="--", zorder=0, gid="50")
        panel.set_title(title)
        panel.set_ylim(-3, 103)
        panel.set_xlabel("coefficient")
        label_ticks(panel.xaxis, coeffs, [coefficient(c) for c in coeffs], "x")
    axes[0, 0].set_ylabel("score")
    return figure


def _projections(summary: PersonaSummary) -> Iterator[tuple[str, Drawing]]:
    asked = questions_asked(summary.answers)
    for (model, trait), rows in on_own_vectors(summary.projections).groupby(["model", "trait"]):
        steered = rows[rows["condition"] == "steered"]
        layers = sorted(steered["layer"].dropna().unique())[:_MOST_LAYERS]
        if layers:
            note = projections_note(rows, asked.get((str(model), str(trait))))
            draw = partial(_projections_figure, rows, layers, str(model), str(trait), note)
            yield f"projections-{model}-{trait}", draw


def _projections_figure(
    rows: pd.DataFrame, layers: Sequence[int], model: str, trait: str, note: str
) -> Figure:
    """Boxes by condition of the mean response state on the trait's own vector, a panel per layer.

    Boxes are the middle half, whiskers 5 % to 95 %. Steered: at the layer that was steered.
    """
    figure, axes = page(
        (1, len(layers)),
        Layout(width=1.7, height=2.2, gap_x=0.45, bottom=0.75),
        f"Projections on the vector of {trait}, {model}",
        note,
    )
    for panel, layer in zip(axes[0], layers, strict=True):
        at = rows[rows["at_layer"] == layer]
        boxes = [_box(of, label) for label, of in conditions(at, int(layer)) if len(of)]
        drawn = panel.bxp(boxes, showfliers=False, widths=0.6)
        for line in [part for kind in drawn.values() for part in kind]:
            line.set(color=GREY, linewidth=0.8)
        panel.set_title(f"layer {int(layer)}")
        panel.tick_params(axis="x", rotation=90)
        panel.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    axes[0, 0].set_ylabel("projection")
    return figure


def projections_note(rows: pd.DataFrame, asked: QuestionsAsked | None) -> str:
    """What the boxes are, and whether they compare the same questions."""
    num_positions = rows["positions"].nunique()
    pooled = f" Quantiles are means over {num_positions} positions." if num_positions > 1 else ""
    compared = "" if asked is None else asked.compared()
    return (
        "Mean hidden state of an answer, projected on the vector, at the steered layer. 'asked': "
        "the instruction asks for the trait or for its opposite; numbers: coefficients. Boxes: the "
        f"middle half of the answers; whiskers: 5 % to 95 %.{pooled} {compared}"
    ).strip()


def steered_layers(steered: pd.DataFrame, model: object) -> list[int]:
    """The layers that a model is steered at, ascending."""
    return sorted(int(layer) for layer in steered[steered["model"] == model]["layer"].unique())


def on_own_vectors(projections: pd.DataFrame) -> pd.DataFrame:
    """Those of answers on the vector of their own trait."""
    own: pd.DataFrame = projections[
        (projections["trait"] == projections["vector"])
        & projections["pooling"].isin(["response_mean", FROM_FILE])
    ]
    return own


def conditions(rows: pd.DataFrame, layer: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Asked not to show the trait, asked to show it, and each coefficient."""
    for label, condition in (("asked not to", "negative"), ("asked to", "positive")):
        yield label, rows[rows["condition"] == condition]
    steered = rows[(rows["condition"].isin(["steered", "baseline"])) & (rows["layer"] == layer)]
    for coeff, of in steered.groupby("coeff"):
        yield coefficient(float(str(coeff))), of


def _box(rows: pd.DataFrame, label: str) -> dict[str, object]:
    # Positions of one coefficient have equal weight.
    names = {"whislo": "low", "q1": "lower", "med": "median", "q3": "upper", "whishi": "high"}
    return {"label": label, **{key: float(rows[name].mean()) for key, name in names.items()}}


def _cosines(summary: PersonaSummary) -> Iterator[tuple[str, Drawing]]:
    for model, rows in summary.cosines.groupby("model"):
        traits = list(dict.fromkeys([*rows["trait"], *rows["other"]]))
        if len(traits) > 1:
            steered = [] if summary.steered.empty else steered_layers(summary.steered, model)
            draw = partial(_cosines_figure, rows, traits, steered, str(model))
            yield f"cosines-{model}", draw


def _cosines_figure(
    rows: pd.DataFrame, traits: Sequence[str], steered: Sequence[int], model: str
) -> Figure:
    """Angles between traits, a panel per layer; the first is the first layer that is steered."""
    every = [int(layer) for layer in sorted(rows["layer"].unique())]
    first = [layer for layer in steered if layer in every][:_MOST_LAYERS]
    others = [layer for layer in every if layer not in first]
    layers = [*first, *spread(others, _MOST_LAYERS - len(first))]
    per_row = min(4, len(layers))
    figure, axes = page(
        (-(-len(layers) // per_row), per_row),
        Layout(width=1.5, height=1.5, gap_x=0.9, left=1.0, bottom=0.9, gap_y=1.1),
        f"Cosines between traits, {model}",
        COSINES_NOTE,
    )
    for panel in axes.flat[len(layers) :]:
        panel.set_axis_off()
    for panel, layer in zip(axes.flat, layers, strict=False):
        matrix = np.eye(len(traits))
        for row in rows[rows["layer"] == layer].itertuples():
            i, j = traits.index(row.trait), traits.index(row.other)
            matrix[i, j] = matrix[j, i] = float(str(row.cosine))
        panel.imshow(matrix, vmin=-1, vmax=1, cmap=DIVERGING)
        for (i, j), value in np.ndenumerate(matrix):
            dark = abs(value) > 0.6
            panel.text(j, i, f"{value:.2f}", ha="center", va="center", size=6,
                       color="white" if dark else "black")  # fmt: skip
        row_title(panel, f"layer {layer}{' (steered)' if layer in first else ''}")
        panel.set_xticks(range(len(traits)), traits, rotation=90)
        panel.set_yticks(range(len(traits)), traits)
    return figure
