"""What readers see of side effects agrees with its tables: matrix, finding, terminal, files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any

import pyarrow as pa
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from jobs.choices.page.write import page_of
from jobs.figures.drawing import files_of
from jobs.figures.style import styled
from jobs.page.matrix import level
from jobs.page.words import MINUS, PERCENT
from jobs.side_effects.console import print_picked, print_side_effects
from jobs.side_effects.figures import NAMES, planned_figures
from jobs.side_effects.page import cautions_of, figures_of, finding_of, matrix_of, tables_of
from jobs.side_effects.words import Measures, Names, matrix_rows, measure_key
from jobs.stereoset.page.write import page_of as stereoset_page_of
from tests.support.choice_results import tables as choice_tables
from tests.support.pages import facts_of, record_of, synthetic
from tests.support.side_effect_tables import measures, tables

Tables = Mapping[str, pa.Table]
PLACE = ("model", "split", "bias_type", "layer", "coeff", "prompt")


@pytest.fixture(scope="module")
def found() -> Tables:
    return tables()


def changed(found: Tables, name: str, **columns: Any) -> Tables:
    """The tables with columns of one of them replaced by a function of its rows."""
    rows = [
        row | {key: make(row) if callable(make) else make for key, make in columns.items()}
        for row in found[name].to_pylist()
    ]
    return {**found, name: pa.Table.from_pylist(rows, schema=found[name].schema)}


def number(text: str) -> float:
    return float(text.replace(MINUS, "-").replace("+", "").replace(",", ""))


def test_each_cell_of_the_matrix_is_its_row_of_the_table(found: Tables) -> None:
    matrix = matrix_of(found)
    of = Measures.of(found)
    assert [group.title for group in matrix.groups] == ["gender", "race"]
    assert [row.title for row in matrix.groups[0].rows] == [
        f"layer 15, dose {MINUS}0.2", "layer 15, dose 0.1", "layer 15, dose 0.2", "prompt fair",
    ]  # fmt: skip
    assert [column.title for column in matrix.columns] == [row["label"] for row in measures()]
    assert [(span.title, span.num) for span in matrix.kinds] == [
        ("target", 1), ("same data", 3), ("other groups of the data", 2), ("bias", 3),
        ("capability", 2), ("text", 1),
    ]  # fmt: skip
    assert [(span.title, span.num) for span in matrix.sets][2:5] == [
        ("gender", 1), ("race", 1), ("crows_pairs", 1),
    ]  # fmt: skip
    cells = [cell for group in matrix.groups for row in group.rows for cell in row.cells]
    assert len(cells) == 8 * 12 and cells.count(None) == 8  # not by transfer to the own group
    rows = {
        (row["bias_type"], row["coeff"], row["prompt"], measure_key(row)): row
        for row in matrix_rows(found, of)
    }
    assert len(rows) == 88
    for coeff, shown in zip((-0.2, 0.1, 0.2), matrix.groups[1].rows, strict=False):
        for key, cell in zip(of.rows, shown.cells, strict=True):
            row = rows.get(("race", coeff, "", key))
            assert (cell is None) == (row is None)
            if cell is None or row is None:
                continue
            times = of.of_row(row).times
            assert number(cell.text) == pytest.approx(times * row["change"], abs=0.05)
            assert cell.is_clear == row["is_clear"] == ("y" in cell.look.split())
            assert cell.level == level(row["standardized"])
            low, high = re.findall(r"\((\S+) to (\S+)\)", cell.title)[0]
            assert number(low) == pytest.approx(times * row["simultaneous_low"], abs=0.05)
            assert number(high) == pytest.approx(times * row["simultaneous_high"], abs=0.05)
    assert {cell.is_clear for cell in cells if cell} == {True, False}


@pytest.mark.parametrize(
    ("size", "wanted"), [(0.0, 0), (0.049, 0), (0.05, 1), (-0.1, -2), (0.39, 3), (-7.0, -4)]
)
def test_a_color_follows_the_size_in_standard_deviations(size: float, wanted: int) -> None:
    assert level(size) == wanted
    assert level(None) == level(float("nan")) == 0


def test_steerings_are_named_by_what_tells_them_apart(found: Tables) -> None:
    row = {"model": "base", "split": "a", "bias_type": "race", "layer": 3, "coeff": -400.0}
    row |= {"prompt": "", "dose": None}
    names = Names.of(found["side_effects"])
    assert names.steering(row) == f"race, layer 3, coefficient {MINUS}400"
    assert names.steering(row | {"dose": 0.25}) == f"race, layer 3, dose {MINUS}0.25"
    assert names.steering(row | {"prompt": "fair"}) == "race, prompt fair"
    alone = Names.of(tables(groups=("race",))["side_effects"])
    assert alone.steering(row | {"prompt": "fair"}) == "prompt fair"


def test_the_finding_has_the_numbers_of_the_tables(found: Tables) -> None:
    ((title, text),) = finding_of(found)
    assert title == "Side effects"
    of = Measures.of(found)
    smallest = [row for row in found["fidelity"].to_pylist() if row["coeff"] == 0.1]
    best = max(smallest, key=lambda row: row["fidelity"])
    rows = matrix_rows(found, of)
    (target,) = [
        row
        for row in rows
        if row["kind"] == "target" and all(row[key] == best[key] for key in PLACE)
    ]
    assert (
        f"At the smallest coefficient, 0.1, {best['bias_type']}, layer 15, dose 0.1 has the best "
        f"fidelity of 2 steerings, {best['fidelity']:.2f}." in text
    )
    assert (
        f"the shift S→A is {target['change']:.3f} nats per token higher than without steering "
        f"(95{PERCENT} interval {target['simultaneous_low']:.3f} to "
        f"{target['simultaneous_high']:.3f}), a clear change." in text
    )
    others = [row for row in rows if row["kind"] != "target" and not row["prompt"]]
    clear = [row for row in others if row["is_clear"]]
    largest = max(clear, key=lambda row: abs(row["standardized"]))
    assert f"Of {len(others)} unintended changes under vectors, {len(clear)} are clear" in text
    assert f"in {of.name(largest)} under {largest['bias_type']}, layer 15" in text
    worse = [
        row
        for row in clear
        if row["kind"] in ("capability", "text") and row["change"] < 0  # more of each is better
    ]
    assert len(worse) == 1 and "text, 1 is clearly for the worse, in log-probability" in text
    assert "a vector does the same at layer 15, dose 0.125, with unintended changes of" in text
    assert "0.05 SD instead of 0.09 SD." in text
    assert not re.search(r"\b(\w+) \1\b|  | ,|\.\.", text)


def test_the_target_that_fell_is_lower(found: Tables) -> None:
    ends = ("change", "simultaneous_low", "simultaneous_high")
    turned = changed(
        found,
        "side_effects",
        change=lambda row: -row["change"],
        simultaneous_low=lambda row: row[ends[2]] and -row[ends[2]],
        simultaneous_high=lambda row: row[ends[1]] and -row[ends[1]],
    )
    assert "nats per token lower than without steering" in finding_of(turned)[0][1]


def test_nothing_clear_comes_with_what_could_have_been_missed() -> None:
    quiet = tables(strength=0.0)
    quiet = changed(quiet, "side_effects", is_clear=lambda row: row["is_clear"] and False)
    text = finding_of(quiet)[0][1]
    assert "which is not clear." in text
    halves = [
        (row["simultaneous_high"] - row["simultaneous_low"]) / 2
        for row in matrix_rows(quiet, Measures.of(quiet))
        if row["kind"] != "target"
        and row["coeff"] is not None
        and row["metric"] in ("s2a", "u2a", "log_likelihood")
    ]
    assert "None of 60 unintended changes under vectors is clear, which does not show" in text
    assert f"{median(halves):.3f} nats per token to either side (median)" in text
    assert "percentage points" in text and "for the worse" not in text


def test_one_clear_change_and_an_unmatched_prompt_read_as_english(found: Tables) -> None:
    def is_one(row: Mapping[str, Any]) -> bool:
        return (row["kind"], row["coeff"], row["bias_type"]) == ("text", 0.2, "race")

    one = changed(
        found,
        "side_effects",
        is_clear=lambda row: None if row["is_clear"] is None else is_one(row),
        change=lambda row: -0.3 if is_one(row) else row["change"],
    )
    one = changed(one, "prompt_matches", coeff=None, dose=None, unintended_of_vector=None)
    text = finding_of(one)[0][1]
    assert (
        "Of 60 unintended changes under vectors, 1 is clear, in log-probability on neutral" in text
    )
    assert "1 is clearly for the worse, in log-probability on neutral under race" in text
    assert "no vector of this sweep does the same within its doses." in text
    unknown = changed(
        found,
        "side_effects",
        is_clear=lambda row: None if row["is_clear"] is None else False,
        simultaneous_low=None,
        simultaneous_high=None,
    )
    assert "No interval can be made" in finding_of(unknown)[0][1]
    (caution,) = cautions_of(unknown)
    assert "88 of 88 changes" in caution.title


def test_warnings_name_few_clusters_and_targets_in_sample(found: Tables) -> None:
    assert cautions_of(found) == []
    few = changed(
        found,
        "side_effects",
        num_clusters=lambda row: 3 if row["set"] == "mmlu" else row["num_clusters"],
        vectors=lambda row: "in_sample" if row["kind"] == "target" else row["vectors"],
    )
    in_sample, clusters = cautions_of(few)
    assert "likely overstated" in in_sample.title
    assert clusters.places == ("mmlu: 3 clusters",)


def test_the_pareto_figure_has_every_steering_and_joins_the_best(found: Tables) -> None:
    (figure,) = figures_of(found)
    assert [view.labels for view in figure.views] == [("base", "gender"), ("base", "race")]
    scores = [row for row in found["fidelity"].to_pylist() if row["bias_type"] == "gender"]
    vectors, best, prompts = figure.views[0].series
    assert prompts["texts"] == ["prompt fair"]
    assert len(vectors["x"]) + len(best["x"]) == 3
    assert sum(row["is_best"] for row in scores if not row["prompt"]) == len(best["x"])
    assert all(x <= y for x, y in pairwise(best["x"])) and best["is_line"]
    drawn = sorted([*vectors["y"], *best["y"], *prompts["y"]])
    assert drawn == pytest.approx(sorted(row["intended"] for row in scores), abs=1e-4)


def test_tables_have_a_row_for_each_row(found: Tables) -> None:
    made = {table.name: table for table in tables_of(found)}
    wanted = {"fidelity": 8, "prompt-matches": 2, "picked": 3, "side-effects": 88, "measures": 12}
    assert {name: len(table.rows) for name, table in made.items()} == wanted
    marks = [any(cell.mark == "*" for cell in row) for row in made["side-effects"].rows]
    assert marks == sorted(marks, reverse=True)  # clear ones first
    assert sum(marks) == sum(bool(row["is_clear"]) for row in found["side_effects"].to_pylist())
    none = {**found, "picked": found["picked"].slice(0, 0)}
    assert "picked" not in {table.name for table in tables_of(none)}


def test_a_picked_steering_without_unintended_change_is_shown(found: Tables) -> None:
    picked = changed(found, "picked", unintended=None, unintended_choosing=None)
    made = {table.name: table for table in tables_of(picked)}
    assert len(made["picked"].rows) == 3


def test_pages_show_side_effects_and_are_as_before_without(found: Tables) -> None:
    facts = facts_of(synthetic(["base"], [5, 15], [-0.2, 0.2]), record_of())
    choices = choice_tables(num_draws=0)
    empty = {**found, "side_effects": found["side_effects"].slice(0, 0)}
    for make in (
        lambda of: stereoset_page_of(facts, side_effects=of),
        lambda of: page_of(choices, record_of(), side_effects=of),
    ):
        page = make(found)
        sections = re.findall(r'<section id="([^"]+)"', page)
        assert sections[sections.index("finding") + 1] == "side-effects"
        assert re.findall(r'href="#([^"]+)"', page) == sections
        assert finding_of(found)[0][1] in page
        assert page.count('<figure id="pareto"') == 1
        assert re.search(r'<th scope="row">layer 15, dose 0.2</th>', page)
        assert page.count('scope="rowgroup"') == 2 and page.count('scope="colgroup"') == 6 + 8
        for without in (make(None), make(empty)):
            assert 'id="side-effects"' not in without and 'id="matrix' not in without
        assert len(page) - len(without) < 250_000


def test_the_terminal_has_80_columns_and_the_numbers_of_the_tables(
    found: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    print_side_effects(found)
    print_picked(found["picked"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    of = Measures.of(found)
    best = max(found["fidelity"].to_pylist(), key=lambda row: row["fidelity"])
    mine = [row for row in matrix_rows(found, of) if all(row[key] == best[key] for key in PLACE)]
    clear = sum(row["is_clear"] for row in mine if row["kind"] != "target")
    (target,) = [row for row in mine if row["kind"] == "target"]
    assert re.search(
        rf"dose {best['dose']} +{best['fidelity']:.2f} +\+{target['change']:.3f}\* +"
        rf"{clear} of {len(mine) - 1} ",
        out,
    )
    assert re.search(r"3 +(\w+, )?layer 15, dose -?0\.\d+ .*\(-0\.100, \+0\.060\) +0\.04 +no", out)
    print_picked(found["picked"].slice(0, 0))
    assert "No steering reaches this change." in capsys.readouterr().out


def test_labels_of_the_file_do_not_overlap() -> None:
    wide = tables(groups=("gender", "race", "religion"), layers=(5, 15), num_sets=2)
    planned = planned_figures(wide)
    assert list(planned) == ["side_effects", "pareto"]
    assert all(NAMES.fullmatch(name) for name in planned)
    with styled():
        figure = planned["side_effects"]()
        renderer = FigureCanvasAgg(figure).get_renderer()
        texts = [*figure.axes[0].texts, *figure.texts]  # a legend lays its own texts out
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    edge = figure.bbox
    assert len(boxes) > 21 * 12
    for n, (text, box) in enumerate(boxes):
        assert edge.x0 <= box.x0 and box.x1 <= edge.x1 + 1 and box.y1 <= edge.y1, text
        for other, beside in boxes[n + 1 :]:
            assert not box.overlaps(beside), (text, other)


def test_files_are_the_same_for_the_same_tables(found: Tables) -> None:
    first, again = (files_of(planned_figures(found)["pareto"]) for _ in range(2))
    assert first == again
    assert first["png"].startswith(b"\x89PNG") and first["pdf"].startswith(b"%PDF")
    empty = {**found, "side_effects": found["side_effects"].slice(0, 0)}
    assert planned_figures(empty) == {}
