"""Figures of a persona sweep: that what they draw are the numbers of its tables."""

from __future__ import annotations

from dataclasses import replace
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
from tests.support.persona_summaries import answers_of, summary_of


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
        "asked not to", "asked to", "\N{MINUS SIGN}3", "0", "5"]  # fmt: skip
    medians = [line.get_ydata()[0] for line in panel.lines if len(line.get_ydata()) == 2]
    wanted = rows.query("condition == 'steered' and layer == 3 and coeff == 5")["median"].item()
    assert any(value == pytest.approx(wanted) for value in medians)


def test_the_score_figure_has_a_dashed_line_at_50() -> None:
    drawn_figure = make_figures(summary_of())["scores-chat-kind"]
    for panel in drawn_figure.axes:
        (line,) = [line for line in panel.lines if line.get_gid() == "50"]
        assert list(line.get_ydata()) == [50, 50]
        assert line.get_linestyle() == "--"
    found = {figure.name: figure for figure in drawn(summary_of())}
    assert found["trait_score-chat-kind"].threshold == 50
    assert "Dashed: 50." in found["trait_score-chat-kind"].caption


@pytest.mark.parametrize(
    ("contrast", "steered", "said"),
    [
        (["a", "b"], ["a", "b"], "All boxes are of the same 2 questions."),
        (["a", "b"], ["b", "c", "d"], "3 steering questions (1 in both)"),
    ],
)
def test_the_projections_figure_says_whether_its_boxes_are_of_the_same_questions(
    contrast: list[str], steered: list[str], said: str
) -> None:
    summary = replace(summary_of(("kind",)), answers=answers_of(contrast, steered))
    (found,) = [f for f in drawn(summary) if f.name.startswith("projections")]
    assert said in found.caption
    in_file = " ".join(sorted(texts(make_figures(summary)["projections-chat-kind"])))
    assert said.split(" ")[-1] in in_file
    assert ("not of the same" in found.caption) == (contrast != steered)
    assert "positions" not in found.caption
    more = summary.projections.assign(positions="all")
    both = replace(summary, projections=pd.concat([summary.projections, more]))
    (found,) = [f for f in drawn(both) if f.name.startswith("projections")]
    assert "means over 2 positions" in found.caption


def test_angles_start_at_the_first_layer_that_is_steered() -> None:
    summary = summary_of()
    (found,) = [f for f in drawn(summary) if f.kind == "heat"]
    assert found.views[found.start].labels == ("2",)
    assert found.views[0].labels == ("1",)
    titles = [
        text.get_text()
        for axes in make_figures(summary)["cosines-chat"].axes
        for text in axes.texts
        if "layer" in text.get_text()
    ]
    assert titles == ["layer 2 (steered)", "layer 1"]


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
        ("coefficient \N{MINUS SIGN}3", [37, 38]), ("coefficient 0", [52, 53]),
        ("coefficient 5", [77, 78]),
    ]  # fmt: skip
    boxes = {view.labels[0]: view.series for view in found["projections-chat-sly"].views}
    rows = summary.projections.query("trait == vector == 'sly' and at_layer == 3")
    wanted = rows.query("condition == 'steered' and layer == 3 and coeff == 5")["median"].item()
    assert boxes["3"][-1] == {"name": "5", **boxes["3"][-1], "median": round(wanted, 4)}
    angles = {view.labels[0]: view.series[0]["z"] for view in found["cosines-chat"].views}
    assert angles == {"1": [[1.0, 0.25], [0.25, 1.0]], "2": [[1.0, 0.5], [0.5, 1.0]]}


def test_a_number_that_is_missing_is_none_and_nothing_is_drawn_of_nothing() -> None:
    summary = summary_of()
    summary.steered.loc[0, ["trait_score", "trait_score_low"]] = np.nan
    (view,) = next(f for f in drawn(summary) if f.name == "trait_score-chat-kind").views
    assert (view.series[0]["y"][0], view.series[0]["low"][0]) == (None, None)
    empty = pd.DataFrame()
    assert drawn(PersonaSummary(empty, empty, empty, empty, empty)) == []
