"""Figures of a persona sweep: that what they draw are the numbers of its tables."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from cluster.storage import StorageSpec
from jobs.figures.write import write_figures
from jobs.persona.figures import NAMES, make_figures, planned_figures
from jobs.persona.page.figures import drawn
from jobs.persona.summary import PersonaSummary

COEFFS = (-3.0, 0.0, 5.0)


def summary_of(traits: tuple[str, ...] = ("kind", "sly"), model: str = "chat") -> PersonaSummary:
    rng = np.random.default_rng(0)
    steered = [
        {"model": model, "trait": trait, "layer": layer, "coeff": coeff, "positions": "response",
         "trait_score": 50 + 5 * coeff + layer, "trait_score_low": 40.0, "trait_score_high": 80.0,
         "coherence": 90.0 if coeff < 5 else 30.0, "coherence_low": 20.0, "coherence_high": 95.0}
        for trait, layer, coeff in product(traits, (2, 3), COEFFS)
    ]  # fmt: skip
    cells = [("positive", None, None), ("negative", None, None)]
    cells += [("baseline" if c == 0 else "steered", la, c) for la in (2, 3) for c in COEFFS]
    projections = [
        {"model": model, "trait": trait, "condition": condition, "layer": layer, "coeff": coeff,
         "vector": vector, "pooling": "response_mean", "at_layer": at,
         **dict(zip(("low", "lower", "median", "upper", "high"), np.sort(rng.normal(size=5)),
                    strict=True))}
        for trait, vector, at, (condition, layer, coeff) in product(traits, traits, (2, 3), cells)
    ]  # fmt: skip
    cosines = [
        {"model": model, "layer": layer, "trait": one, "other": two,
         "cosine": 1.0 if one == two else 0.25 * layer}
        for layer in (1, 2)
        for n, one in enumerate(traits)
        for two in traits[n:]
    ]  # fmt: skip
    return PersonaSummary(
        pd.DataFrame(), pd.DataFrame(steered), pd.DataFrame(projections), pd.DataFrame(cosines),
        pd.DataFrame(),
    )  # fmt: skip


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


def test_lines_are_the_scores_and_crosses_where_the_text_broke_down() -> None:
    drawn = make_figures(summary_of())["scores-chat-kind"]
    scores, coherence = drawn.axes
    lines = [line for line in scores.lines if line.get_gid() == "trait_score"]
    assert [list(line.get_ydata()) for line in lines] == [[37, 52, 77], [38, 53, 78]]
    crosses = [line.get_xydata().tolist() for line in coherence.lines if line.get_gid() == "x"]
    assert crosses == [[[5.0, 30.0]], [[5.0, 30.0]]]


def test_boxes_are_the_quantiles_on_the_traits_own_vector() -> None:
    summary = summary_of()
    drawn = make_figures(summary)["projections-chat-sly"]
    rows = summary.projections.query("trait == vector == 'sly' and at_layer == 3")
    panel = drawn.axes[1]
    assert [t.get_text() for t in panel.get_xticklabels()] == [
        "asked not to", "asked to", "-3", "0", "5"]  # fmt: skip
    medians = [line.get_ydata()[0] for line in panel.lines if len(line.get_ydata()) == 2]
    wanted = rows.query("condition == 'steered' and layer == 3 and coeff == 5")["median"].item()
    assert any(value == pytest.approx(wanted) for value in medians)


def test_angles_are_drawn_with_their_numbers() -> None:
    drawn = make_figures(summary_of())["cosines-chat"]
    assert {"1.00", "0.25", "0.50", "kind", "sly"} <= texts(drawn)
    assert not any("cosines" in name for name in make_figures(summary_of(("kind",))))


def test_nothing_is_drawn_of_nothing_and_names_stay_text(tmp_path: Path) -> None:
    empty = PersonaSummary(*[pd.DataFrame()] * 5)
    assert make_figures(empty) == {}
    figures = planned_figures(summary_of(model="a$b$c"))
    assert any("a$b$c" in text for text in texts(figures["scores-a$b$c-kind"]()))
    storage = StorageSpec(str(tmp_path / "out")).open()
    write_figures(storage, {"cosines-a$b": figures["cosines-a$b$c"]}, NAMES)
    assert {p.name for p in (tmp_path / "out/figures").iterdir()} == {
        "cosines-a_b.png", "cosines-a_b.pdf"}  # fmt: skip
    write_figures(storage, {}, NAMES)
    assert not list((tmp_path / "out/figures").iterdir())


def test_the_pages_figures_hold_the_numbers_of_the_tables() -> None:
    summary = summary_of()
    found = {figure.name: figure for figure in drawn(summary)}
    kinds = ("trait_score", "coherence", "layers", "projections")
    assert list(found) == [f"{k}-chat-{t}" for t in ("kind", "sly") for k in kinds] + [
        "cosines-chat"
    ]
    (view,) = found["trait_score-chat-kind"].views
    assert [line["y"] for line in view.series] == [[37, 52, 77], [38, 53, 78]]
    assert [line["marked"] for line in view.series] == [[False, False, True]] * 2
    assert view.series[0]["low"] == [40.0] * 3
    (layers,) = found["layers-chat-kind"].views
    assert [(line["name"], line["y"]) for line in layers.series] == [
        ("coefficient -3", [37, 38]), ("coefficient 0", [52, 53]), ("coefficient 5", [77, 78])
    ]  # fmt: skip
    boxes = {view.label: view.series for view in found["projections-chat-sly"].views}
    rows = summary.projections.query("trait == vector == 'sly' and at_layer == 3")
    wanted = rows.query("condition == 'steered' and layer == 3 and coeff == 5")["median"].item()
    assert boxes["3"][-1] == {"name": "5", **boxes["3"][-1], "median": round(wanted, 4)}
    angles = {view.label: view.series[0]["z"] for view in found["cosines-chat"].views}
    assert angles == {"1": [[1.0, 0.25], [0.25, 1.0]], "2": [[1.0, 0.5], [0.5, 1.0]]}


def test_a_number_that_is_missing_is_none_and_nothing_is_drawn_of_nothing() -> None:
    summary = summary_of()
    summary.steered.loc[0, ["trait_score", "trait_score_low"]] = np.nan
    (view,) = next(f for f in drawn(summary) if f.name == "trait_score-chat-kind").views
    assert (view.series[0]["y"][0], view.series[0]["low"][0]) == (None, None)
    empty = pd.DataFrame()
    assert drawn(PersonaSummary(empty, empty, empty, empty, empty)) == []
