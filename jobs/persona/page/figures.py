"""The figures of a persona sweep's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from jobs.page.views import Figure, View, in_pairs, plain_number
from jobs.page.words import coefficient
from jobs.persona.figures import (
    BROKEN_DOWN,
    COSINES_NOTE,
    conditions,
    on_own_vectors,
    projections_note,
    steered_layers,
)
from jobs.persona.questions import questions_asked
from jobs.persona.summary import PersonaSummary


def drawn(summary: PersonaSummary) -> list[Figure]:
    """The figures that a summary has the rows for."""
    of_groups = [*_scores(summary.steered), *_projections(summary)]
    # Those of a model and a trait stand together.
    of_groups.sort(key=lambda found: found[0])
    return in_pairs([*(figure for _, figure in of_groups), *_cosines(summary)])


def _scores(steered: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    if steered.empty:
        return
    for (model, trait), rows in steered.groupby(["model", "trait"]):
        of, where = f"{model}-{trait}", f"{model}, {trait}"
        intervals = "Means over answers, judged 0 to 100. Bands: 95 % intervals over questions."
        marked = (
            f"Dashed: {BROKEN_DOWN:g}. Crosses: coherence below {BROKEN_DOWN:g}, the text has "
            "broken down."
        )
        for name, y in (("trait_score", f"{trait} score"), ("coherence", "coherence")):
            yield (
                of,
                Figure(
                    name=f"{name}-{of}",
                    title=f"{'Coherence' if name == y else 'Score'} by coefficient, {where}",
                    caption=f"{intervals} {marked}",
                    kind="lines",
                    x="coefficient",
                    y=y,
                    choices=("positions",),
                    views=_line_views(rows, name, along="coeff", series="layer"),
                    limits=(0.0, 100.0),
                    threshold=BROKEN_DOWN,
                ),
            )
        if rows["layer"].nunique() > 1:
            yield (
                of,
                Figure(
                    name=f"layers-{of}",
                    title=f"Score by layer, {where}",
                    caption=f"{intervals} {marked}",
                    kind="lines",
                    x="layer",
                    y=f"{trait} score",
                    choices=("positions",),
                    views=_line_views(rows, "trait_score", along="layer", series="coeff"),
                    limits=(0.0, 100.0),
                    threshold=BROKEN_DOWN,
                ),
            )


def _line_views(rows: pd.DataFrame, name: str, *, along: str, series: str) -> list[View]:
    label = {"layer": "layer", "coeff": "coefficient"}[series]
    return [
        View(
            (str(positions),),
            [
                {
                    "name": f"{label} {coefficient(float(str(value)))}",
                    "x": [float(x) for x in of[along]],
                    "y": _numbers(of[name]),
                    "low": _numbers(of[f"{name}_low"]),
                    "high": _numbers(of[f"{name}_high"]),
                    "marked": [bool(c < BROKEN_DOWN) for c in of["coherence"]],
                }
                for value, of in of_positions.sort_values(along).groupby(series)
            ],
        )
        for positions, of_positions in rows.groupby("positions")
    ]


def _projections(summary: PersonaSummary) -> Iterator[tuple[str, Figure]]:
    if summary.projections.empty:
        return
    asked = questions_asked(summary.answers)
    quantiles = ("low", "lower", "median", "upper", "high")
    for (model, trait), rows in on_own_vectors(summary.projections).groupby(["model", "trait"]):
        layers = sorted(rows[rows["condition"] == "steered"]["layer"].dropna().unique())
        views = [
            View(
                (f"{int(layer)}",),
                [
                    # Positions of one coefficient have equal weight.
                    {"name": label, **{q: plain_number(of[q].mean()) for q in quantiles}}
                    for label, of in conditions(rows[rows["at_layer"] == layer], int(layer))
                    if len(of)
                ],
            )
            for layer in layers
        ]
        if views:
            yield (
                f"{model}-{trait}",
                Figure(
                    name=f"projections-{model}-{trait}",
                    title=f"Projections on the vector, {model}, {trait}",
                    caption=projections_note(rows, asked.get((str(model), str(trait)))),
                    kind="boxes",
                    x="contrast answers, then coefficients",
                    y="projection",
                    choices=("layer",),
                    views=views,
                ),
            )


def _cosines(summary: PersonaSummary) -> Iterator[Figure]:
    if summary.cosines.empty:
        return
    for model, rows in summary.cosines.groupby("model"):
        traits = list(dict.fromkeys([*rows["trait"], *rows["other"]]))
        if len(traits) < 2:
            continue
        views = []
        for layer, of in rows.groupby("layer"):
            cosine = {(r.trait, r.other): plain_number(r.cosine) for r in of.itertuples()}
            grid = [[cosine.get((a, b), cosine.get((b, a))) for b in traits] for a in traits]
            views.append(View((f"{layer}",), [{"x": traits, "y": traits, "z": grid}]))
        yield Figure(
            name=f"cosines-{model}",
            title=f"Cosines between traits, {model}",
            caption=COSINES_NOTE,
            kind="heat",
            x="",
            y="",
            choices=("layer",),
            views=views,
            limits=(-1.0, 1.0),
            digits=2,
            start=_first_steered(summary, model, [view.labels[0] for view in views]),
        )


def _first_steered(summary: PersonaSummary, model: object, labels: Sequence[str]) -> int:
    """The view of the first layer that is steered."""
    if not summary.steered.empty:
        for layer in steered_layers(summary.steered, model):
            if str(layer) in labels:
                return labels.index(str(layer))
    return 0


def _numbers(values: pd.Series) -> list[float | None]:
    return [plain_number(value) for value in values]
