"""report.html: what it says of the numbers, and that nothing in it is taken for markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from jobs.page.estimate import Estimate
from jobs.page.table import Table
from jobs.page.words import MINUS, coefficient, number
from jobs.stereoset.headline import PAPER
from jobs.stereoset.labels import COLORS, LABELS
from jobs.stereoset.page.cautions import cautions
from jobs.stereoset.page.facts import Facts, Incomplete
from jobs.stereoset.page.figures import drawn
from jobs.stereoset.page.ran import ran
from jobs.stereoset.page.tables import (
    cells,
    glance,
    held_out_differences,
    null_tests,
    nulls,
    seeds,
)
from jobs.stereoset.page.write import page_of
from jobs.stereoset.summary import Summary
from tests.support.known_sweeps import known_sweep
from tests.support.pages import cell, facts_of, record_of, summary_of, synthetic

EVIL = "</script><script>document.title = 'owned'</script>\"'><img src=x onerror=alert(1)>"


def flows(s2a: Any, u2a: Any, s2u: Any, **more: Any) -> dict[str, Any]:
    return {"flow_s2a": s2a, "flow_u2a": u2a, "flow_s2u": s2u, **more}


SIDE_EFFECT = flows(
    (0.05, 0.04, 0.06),
    (0.12, 0.10, 0.14),
    (0.01, -0.01, 0.03),
    lms=(80.0, 78.0, 82.0),
    lms_change=(-9.5, -11.0, -8.0),
)


def test_an_unfinished_run_says_what_is_missing() -> None:
    rows = [
        cell(split="x", bias_type="y", layer=1, **SIDE_EFFECT),
        cell(split="x", bias_type="y", layer=3, **flows(0.0, 0.01, 0.0)),
    ]
    facts = facts_of(
        summary_of(cells=rows, num_missing=2),
        record_of(),
        num_tasks_done=1,
        incomplete=(Incomplete("base/x/y", 2, 4),),
    )
    page = page_of(facts)
    assert "This run is not complete: 2 of 4 cells are missing" in page
    assert "base/x/y: 2 of 4" in page
    assert "1 of 128 tasks done" in page


def test_a_run_without_a_cell_makes_a_page() -> None:
    page = page_of(facts_of(summary_of(), {}, num_tasks_done=0))
    assert "so there is no finding" in page
    assert "run.json is lost" in page


def test_links_lead_to_the_sections_in_their_order() -> None:
    page = page_of(facts_of(synthetic(["base"], [1], [20.0]), record_of()))
    assert re.findall(r'href="#([^"]+)"', page) == re.findall(r'<section id="([^"]+)"', page)


def test_warnings_name_their_places() -> None:
    fell = flows(0.0, 0.0, 0.0, lms_change=(-30.0, -35.0, -25.0))
    unclear = flows(0.0, 0.0, 0.0, lms_change=(-30.0, -65.0, 5.0))
    summary = summary_of(
        cells=[cell(split="x", bias_type="y", layer=layer, **fell) for layer in range(1, 11)]
        + [cell(split="x", bias_type="y", layer=99, **unclear)],
        baseline=[{"model": "base", "split": "x", "bias_type": "y", "num_examples": 29}],
    )
    facts = facts_of(
        summary,
        record_of(),
        non_finite=("base/x/y: 3 of 9 rows",),
        set_aside=({"group": "g", "shard": 1, "table": "steered", "reason": "no memory"},),
    )
    facts.certificate["overall"].update(num_changed_choices=2, verdict="broken")
    found = cautions(facts)
    text = "\n".join([c.title + " ".join(c.places) for c in found])
    for words in (
        "is broken",
        "Of 128 rows computed a second time, 2",
        "no memory",
        "3 of 9",
        "points in 10 cells",
        "y: 29",
    ):
        assert words in text
    assert "layer 99" not in text
    assert found[0].is_grave
    assert "A sample of each task" in page_of(facts)
    facts.certificate["overall"].update(num_rows_checked=0)
    assert "No row of this run was computed a second time." in page_of(facts)
    assert max(len(c.places) for c in found) == 8


def hostile() -> Facts:
    hostile_record = record_of(models={"base": {"path": EVIL, "revision": EVIL, "dtype": EVIL}})
    hostile_record["sessions"][0]["host"] = EVIL
    facts = facts_of(
        summary_of(
            cells=[cell(split="x", bias_type=EVIL, layer=1, **SIDE_EFFECT)],
            baseline=[{"model": "base", "split": "x", "bias_type": EVIL, "num_examples": 3}],
        ),
        hostile_record,
        non_finite=(EVIL,),
        set_aside=({"group": EVIL, "shard": 1, "table": "steered", "reason": EVIL},),
    )
    worst = {"example_id": EVIL, "split": EVIL, "bias_type": EVIL, "layer": 1, "coeff": 1.0}
    facts.certificate["overall"]["worst_row"] = {**worst, "quantity": "score"}
    return facts


def test_texts_of_data_and_models_stay_text() -> None:
    page = page_of(hostile())
    assert "<script>document.title" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;document.title") > 8
    # The page's own scripts, and the data of the figures.
    assert len(re.findall(r"<script[ >]", page.replace(*_library(page)))) == 5
    data = re.search(r'id="drawn">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert EVIL in json.loads(data[1])["values"]["bias_type"]


def _library(page: str) -> tuple[str, str]:
    """plotly.js, whose texts name tags, and nothing."""
    start = page.index("<script>") + len("<script>")
    return page[start : page.index("</script>\n<script>//", start)], ""


def test_the_page_names_nothing_that_would_be_fetched() -> None:
    page = page_of(facts_of(synthetic(["base"], [1, 3], [20.0, 400.0]), record_of()))
    page = page.replace(*_library(page))
    page = page.replace(f'<a href="{PAPER[2]}">', "")  # a link: followed only if it is clicked
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", page)
    assert "http:" not in page
    assert "https:" not in page
    assert "default-src 'none'" in page
    assert "unsafe-eval" not in page


def test_figures_hold_each_number_once() -> None:
    summary = synthetic(["base", "tuned"], [1, 3, 5], [-3.0, 20.0])
    made = drawn(summary, 20.0)
    assert [figure.name for figure in made.figures] == [
        "by-layer", "grid", "flows", "moves", "by-coeff", "models",
    ]  # fmt: skip
    assert made.values["split"][0] == "all splits"
    assert made.numeric == (None, 1, 3, 5)
    assert made.values["coeff"][made.start["coeff"]] == "20"
    rows = [*summary.pooled.to_pylist(), *summary.cells.to_pylist()]
    assert {len(column) for column in made.columns.values()} == {len(rows)}
    assert made.columns["flow_u2a"][0] == pytest.approx(100 * rows[0]["flow_u2a"], rel=1e-3)
    alone = drawn(summary_of(cells=[cell(layer=1, split="x", bias_type="y")]), None)
    assert [figure.name for figure in alone.figures] == ["flows", "moves"]


def test_tables_leave_out_columns_that_say_the_same_in_every_row() -> None:
    summary = synthetic(["base"], [1, 3], [20.0, 400.0])
    assert [c.title for c in glance(summary).columns][:2] == ["coefficient", "Δ S→A"]
    assert glance(summary).caption.endswith("base, all splits, all bias types, all layers")
    table = cells(summary)
    assert [c.title for c in table.columns][:3] == ["split", "bias type", "layer"]
    assert len(table.rows) == summary.cells.num_rows
    assert table.is_long


def test_what_was_run_is_told_in_words() -> None:
    told = ran(facts_of(summary_of(), record_of()))
    text = " ".join(text for _, text in told.terms)
    assert "cross-fitted in 5 folds" in text
    assert "resid_post, the residual stream as it leaves the block" in text
    assert "2026-11-22 08:00:00 to 2026-11-22 09:00:00 UTC" in text
    assert "coeffs: [0.1, 400]" in told.spec


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (-0.04, 1, "0.0"),
        (-1234.56, 1, f"{MINUS}1,234.6"),
        (0.5, 0, "0"),
        (-2.0, 3, f"{MINUS}2.000"),
    ],
)
def test_numbers_are_written_for_people(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_estimates_compare_by_their_intervals() -> None:
    negative = Estimate(-2.0, -3.0, -1.0)
    assert negative.is_clear
    assert negative.size == Estimate(2.0, 1.0, 3.0)
    assert Estimate(-0.5, -2.0, 1.0).size == Estimate(0.5, 0.0, 2.0)
    assert negative.size.compared(Estimate(5.0, 4.0, 6.0)) == "smaller"
    assert negative.size.compared(Estimate(2.0, 1.5, 6.0)) == "unclear"
    assert coefficient(-0.5) == f"{MINUS}0.5"
    assert coefficient(400.0) == "400"


def test_nulls_stand_beside_the_fitted_vectors_with_what_is_significant() -> None:
    layers = [cell(layer=n, split="a", bias_type="b", flow_s2a_q=0.01 * n) for n in range(1, 9)]
    of_nulls = [
        {"null": null, **row}
        for null, share in (("shuffled", 0.02), ("random", 0.01))
        for row in (cell(flow_s2a=(share, 0.0, 0.03)), cell(layer=1, split="a", bias_type="b"))
    ]
    summary = summary_of(cells=layers, pooled=[cell(**SIDE_EFFECT)], of_nulls=of_nulls)
    table = nulls(summary)
    rows = [[entry.text for entry in row] for row in table.rows]
    titles = [column.title for column in table.columns]
    names, shares, significant = (
        [row[titles.index(title)] for row in rows] for title in ("vectors", "flow S→A", "q < 0.05")
    )
    assert names == ["fitted", "random", "shuffled"]
    assert shares == ["5.0", "1.0", "2.0"]
    assert significant == ["4 of 8", "0 of 0", "0 of 0"]
    assert table.caption in page_of(facts_of(summary, record_of()))
    assert not nulls(summary_of(cells=layers)).rows


def both_vectors() -> Summary:
    """In-sample vectors move 0.5 nats, held-out ones 0.1; 19 draws of shuffled labels."""
    at = {"split": "x", "bias_type": "y"}
    places = [{}, {**at, "layer": 1}, {**at, "layer": 2}]
    in_sample, held_out = (
        [cell(s2a=(value, value - 0.1, value + 0.1), **place) for place in places]
        for value in (0.5, 0.1)
    )
    draws = [
        {"null": "shuffled", "vectors": vectors, "draw": draw, **cell(s2a=0.01 * draw)}
        for vectors in ("in_sample", "held_out")
        for draw in range(19)
    ]
    key = {name: in_sample[0][name] for name in ("model", "split", "bias_type", "layer", "coeff")}
    tests = [
        key | {"estimate": name, "null": "shuffled", "vectors": vectors, "value": value}
        | {"num_draws": 19, "rank": rank, "p": rank / 20}
        for vectors, value, rank in (("in_sample", 0.5, 1), ("held_out", 0.1, 10))
        for name in ("s2a", "flow_s2a")
    ]  # fmt: skip
    paired = {"kind": "held_out", "a": "in_sample", "b": "held_out", "estimate": "s2a"}
    return summary_of(
        in_sample[1:],
        in_sample[:1],
        of_nulls=draws,
        held_out=held_out[1:],
        held_out_pooled=held_out[:1],
        null_tests=tests,
        differences=[key | paired | {"difference": 0.4, "low": 0.3, "high": 0.5, "p": 0.001}],
        vectors="in_sample",
    )


def texts_of(table: Table) -> list[list[str]]:
    return [[entry.text for entry in row] for row in table.rows]


def test_in_sample_and_held_out_rows_stand_next_to_each_other() -> None:
    summary = both_vectors()
    assert [row[1:3] for row in texts_of(glance(summary))] == [
        ["in-sample", "0.500"],
        ["held-out", "0.100"],
    ]
    assert [row[:2] + row[2:3] + row[4:5] for row in texts_of(cells(summary))] == [
        ["1", "20", "in-sample", "0.500"],
        ["1", "20", "held-out", "0.100"],
        ["2", "20", "in-sample", "0.500"],
        ["2", "20", "held-out", "0.100"],
    ]
    (difference,) = held_out_differences(summary).rows
    assert [(e.text, e.detail, e.mark) for e in difference][1] == ("0.400", "0.300 to 0.500", "*")
    page = page_of(facts_of(summary, record_of()))
    assert "in-sample minus held-out vectors" in page


def test_ranks_among_nulls_name_the_number_of_vectors() -> None:
    rows = texts_of(null_tests(both_vectors()))
    assert [row[1:4] for row in rows] == [
        ["in-sample", "0.500", "1 of 20"],
        ["held-out", "0.100", "10 of 20"],
    ]
    assert [row[4] for row in rows] == ["0.050", "0.500"]


def test_many_draws_of_a_null_are_one_row_with_their_range() -> None:
    table = nulls(both_vectors())
    assert [row[2] for row in texts_of(table)] == ["fitted", "shuffled, 19 draws"] * 2
    at = [column.title for column in table.columns].index("\N{GREEK CAPITAL LETTER DELTA} S→A")
    assert [(row[at].text, row[at].detail) for row in table.rows[1::2]] == [
        ("0.090", "0.000 to 0.180")
    ] * 2


def test_figures_and_cautions_are_about_the_held_out_rows() -> None:
    summary = both_vectors()
    found = drawn(summary, 20.0)
    assert found.note == "All figures are of held-out vectors."
    assert set(found.columns["s2a"]) == {0.1}
    titles = " ".join(c.title for c in cautions(facts_of(summary, record_of())))
    assert "Rows marked in-sample" in titles
    assert "vectors.folds=5" not in titles


def test_a_group_without_held_out_vectors_is_named() -> None:
    summary = both_vectors()
    single = cell(split="x", bias_type="alone", layer=1, num_terms=1)
    rows = [*summary.cells.to_pylist(), single]
    summary = replace(summary, cells=pa.Table.from_pylist(rows, schema=summary.cells.schema))
    (found,) = [
        c for c in cautions(facts_of(summary, record_of())) if "single target term" in c.title
    ]
    assert list(found.places) == ["base/x/alone"]


def test_anisotropy_is_drawn_where_it_was_summed() -> None:
    cells = [cell(layer=n, split="a", bias_type="b") for n in (1, 2)]
    geometry = [
        {"model": "base", "split": "a", "bias_type": "b", "layer": n, "mean_cosine": n / 4}
        for n in (1, 2)
    ]
    found = drawn(summary_of(cells=cells, geometry=geometry), 20.0)
    assert found.columns["mean_cosine"] == [0.25, 0.5]
    assert "anisotropy" in [figure.name for figure in found.figures]
    assert "anisotropy" not in [f.name for f in drawn(summary_of(cells=cells), 20.0).figures]


def test_random_weights_are_said_in_the_title_and_first_among_the_warnings() -> None:
    models = {"tiny": {"path": "embedded:gemma2-tiny", "revision": None, "dtype": "auto"}}
    facts = facts_of(summary_of(), record_of(models=models), set_aside=({"group": "g", "shard": 1,
                     "table": "steered", "reason": "no memory"},))  # fmt: skip
    page = page_of(facts)
    assert "<title>Steering sweep on StereoSet with random weights: tiny</title>" in page
    assert "<h1>Steering sweep on StereoSet with random weights: tiny</h1>" in page
    assert "weights of tiny are random" in cautions(facts)[0].title
    assert cautions(facts)[0].is_grave
    real = facts_of(summary_of(), record_of())
    assert "random weights" not in page_of(real)
    assert not cautions(real)


def test_the_page_and_the_figures_have_one_spelling_and_one_color_for_each_effect() -> None:
    page = page_of(facts_of(synthetic(["base"], [1, 3], [20.0, 400.0]), record_of()))
    for name in ("s2a", "u2a", "s2u"):
        assert f"--{name}:{COLORS[name].light};" in page
        assert f"--{name}:{COLORS[name].dark};" in page
        assert f"flow {LABELS[name]}<" in page
    assert "s→a" not in page.replace(*_library(page))


def titles(summary: Summary) -> str:
    return "\n".join(caution.title for caution in cautions(facts_of(summary, record_of())))


def test_in_sample_vectors_and_a_grid_that_changed_nothing_are_warned_of() -> None:
    moved = titles(known_sweep(lambda c: (0.0, 0.3, 0.0)))
    assert "fitted to the same examples that they steer (in-sample)" in moved
    assert "No cell changed a single choice" not in moved
    still = titles(known_sweep(lambda c: (0.0, 0.0, 0.0), noise=0.0, vectors="held_out"))
    assert "in-sample" not in still
    assert "No cell changed a single choice" in still
    assert "not comparable with the published values" in still


def test_few_target_terms_are_warned_of_only_if_the_finding_rests_on_them() -> None:
    few = {"num_terms": 3, "few_terms": True}
    cells = [
        cell(split="x", bias_type="religion", layer=1) | few,
        cell(split="x", bias_type="race", layer=1),
    ]
    assert "fewer than 5 target terms" in titles(summary_of(cells=cells[:1]))
    pooled = [cell(split="x", bias_type="all", layer=1)]
    assert "fewer than 5 target terms" not in titles(summary_of(cells=cells, pooled=pooled))


def test_an_estimate_without_an_interval_is_shown_without_one() -> None:
    row = cell(split="x", bias_type="y", layer=1, icat_change=(-4.0, None, None))
    (shown,) = cells(summary_of(cells=[row])).rows
    titles = [column.title for column in cells(summary_of(cells=[row])).columns]
    found = shown[titles.index("ICAT change")]
    assert (found.text, found.detail, found.sort) == (f"{MINUS}4.0", "", -4.0)


def test_runs_with_other_examples_are_in_a_table() -> None:
    spread = {"mean": 0.05, "sd": 0.02, "smallest": -0.03, "largest": 0.1, "num_runs": 3}
    row = {"model": "base", "split": "x", "coeff": 20.0, "vectors": "in_sample", **spread}
    rows = [row | {"estimate": name} for name in ("flow_s2a", "s2a")]
    made = seeds(rows)
    assert made.caption.startswith("The headline over 3 runs with other examples, base, x")
    assert [[cell.text for cell in shown][2:] for shown in made.rows] == [
        ["5.0", "2.0", f"{MINUS}3.0", "10.0"],
        ["0.050", "0.020", f"{MINUS}0.030", "0.100"],
    ]
    assert made.caption in page_of(facts_of(summary_of(), record_of(), seeds=tuple(rows)))


@pytest.mark.slow
def test_of_many_cells_the_figures_show_some_and_say_which() -> None:
    layers, coeffs = range(1, 51), [float(c) for c in range(1, 26)]
    summary = synthetic(("base", "tuned"), layers, coeffs)
    found = drawn(summary, 7.0)
    num_shown = len(found.columns["layer"])
    assert 1000 < num_shown <= 2000
    shown_layers = [layer for layer in found.numeric if layer is not None]
    assert {1, 50} <= set(shown_layers)
    steps = {b - a for a, b in pairwise(shown_layers)}
    assert max(steps) - min(steps) <= 1
    assert {"1", "7", "25"} <= set(found.values["coeff"])
    assert found.values["coeff"][found.start["coeff"]] == "7"
    num_cells = sum(
        found.numeric[layer] is not None and "all" not in (split, bias_type)
        for layer, split, bias_type in zip(
            found.columns["layer"],
            (found.values["split"][n].split()[0] for n in found.columns["split"]),
            (found.values["bias_type"][n].split()[0] for n in found.columns["bias_type"]),
            strict=True,
        )
    )
    assert f"There are 20,000 cells. The figures show {num_cells:,} of them" in found.note
    assert f"{len(shown_layers)} of 50 layers" in found.note
    assert "summary/cells.csv" in found.note
    assert "and the coefficient that the finding is about" in found.note
    assert "the finding is about" not in drawn(summary, 25.0).note
    html = page_of(facts_of(summary, record_of()))
    assert "There are 20,000 cells. The figures show" in html
    assert len(html) < 12e6


def test_few_cells_are_all_shown_and_nothing_is_said() -> None:
    found = drawn(synthetic(("base",), (1, 2), (20.0,)), 20.0)
    assert found.note == "All figures are of held-out vectors."
    assert len(found.columns["layer"]) == 3 * 5 * 3


def test_the_page_says_how_its_numbers_are_made() -> None:
    html = page_of(facts_of(synthetic(("base",), (1,), (20.0,)), record_of()))
    assert "How these numbers are made" in html
    assert "docs/statistics.md" in html
