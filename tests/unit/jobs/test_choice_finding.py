"""The finding, the terminal and the page of a choices sweep agree with its tables."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from jobs.choices.figures import NAMES, planned_figures
from jobs.choices.finding import finding, is_clear
from jobs.choices.page.cautions import cautions
from jobs.choices.page.figures import drawn
from jobs.choices.page.write import page_of
from jobs.choices.result import print_result
from jobs.choices.summary import summarise
from jobs.figures.drawing import files_of
from jobs.page.words import MINUS
from tests.support.choice_results import CONTRAST, METRICS, fit_rows, sweep, tables
from tests.support.pages import record_of


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return tables(num_draws=3)


def test_the_finding_names_the_largest_coefficient_with_a_clear_intended_effect(
    found: dict[str, Any],
) -> None:
    ((model, text),) = finding(found)
    assert model == "base"
    named = re.search(r"at coefficient (\S+), over all layers", text)
    assert named is not None
    coeff = float(named[1].replace(MINUS, "-"))
    statements = [row for row in found["findings"].to_pylist() if row["family"] == "gap"]
    (row,) = [row for row in statements if row["layer"] is None and row["coeff"] == coeff]
    assert is_clear(row) and row["is_intended"]
    assert f"by {abs(row['value']):.3f} nats per token" in text
    assert "This is the intended direction." in text
    assert text.startswith("With held-out vectors")
    assert "of 3 vectors of random direction" in text


def test_nothing_is_called_clear_that_its_interval_does_not_exclude() -> None:
    ((_, text),) = finding(tables(slope=0.0, held_out=None, num_draws=0))
    assert "no change of the gap between yes and no is clear at 2 coefficients" in text
    assert "could have been missed" in text
    assert "direction" not in text


def test_the_wrong_direction_is_said() -> None:
    ((_, text),) = finding(tables(slope=-0.5, held_out=None, num_draws=0))
    assert "This is against the intended direction." in text


def test_vectors_from_a_file_and_no_contrast_have_no_direction() -> None:
    of_file = summarise([fit_rows(vectors="file")], METRICS, CONTRAST)
    without = summarise(sweep(num_draws=0), METRICS, None)
    for of in (of_file, without):
        ((_, text),) = finding(of)
        assert "intended" not in text
        assert "choices changed" in text


def test_one_cluster_and_no_rows_find_nothing() -> None:
    single = summarise([fit_rows(num_clusters=1)], METRICS, CONTRAST)
    assert "No interval can be made" in finding(single)[0][1]
    assert finding(summarise([], METRICS, CONTRAST)) == []


def test_the_terminal_has_80_columns_and_the_numbers_of_the_tables(
    found: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(found)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    rows = found["pooled"].to_pylist()
    (row,) = [
        row
        for row in rows
        if (row["fit"], row["layer"], row["coeff"], row["vectors"]) == (None, None, 2, "held_out")
    ]
    assert f"{row['gap_change']:.3f} ({row['gap_change_low']:.3f}" in out
    assert f"{100 * row['chose_yes_change']:.1f} (" in out


def test_cautions_name_few_clusters_and_scores_that_are_not_finite() -> None:
    few = summarise([fit_rows(num_clusters=4)], METRICS, CONTRAST)
    titles = " ".join(caution.title for caution in cautions(few, record_of()))
    assert "Fewer than 10 clusters" in titles
    assert "fitted to the same examples" in titles
    assert "not finite" not in titles
    rows = fit_rows(num=20)
    rows.baseline.sums[0, 0] = float("nan")
    titles = " ".join(
        caution.title for caution in cautions(summarise([rows], METRICS, CONTRAST), {})
    )
    assert "not finite" in titles and "run.json is lost" in titles


def test_figures_have_a_view_for_every_choice(found: dict[str, Any]) -> None:
    for figure in drawn(found):
        labels = [set(of) for of in zip(*(view.labels for view in figure.views), strict=True)]
        num = 1
        for of in labels:
            num *= len(of)
        assert len(figure.views) == num
    by_coeff = drawn(found)[0]
    assert by_coeff.views[0].labels == ("gap between yes and no", "held-out", "all fits")
    (line, *_) = by_coeff.views[0].series
    wanted = {
        row["coeff"]: round(row["gap_change"], 4)
        for row in found["pooled"].to_pylist()
        if (row["fit"], row["layer"], row["vectors"]) == (None, None, "held_out")
    }
    assert dict(zip(line["x"], line["y"], strict=True)) == wanted


def test_the_page_says_what_the_finding_says(found: dict[str, Any]) -> None:
    page = page_of(found, record_of(), terms=[("Data", "made up")])
    ((_, text),) = finding(found)
    assert text.replace("'", "&#39;") in page
    assert "Somebody 2024" in page
    figures = re.search(r'id="drawn">(.*?)</script>', page, re.DOTALL)
    assert figures is not None and len(json.loads(figures[1])) == 3
    assert "No cell is complete yet." in page_of(summarise([], METRICS, CONTRAST), {})


def test_the_files_draw_a_line_for_each_layer_and_one_over_all(found: dict[str, Any]) -> None:
    (name,) = planned_figures(found)
    assert NAMES.fullmatch(name)
    files = files_of(planned_figures(found)[name])
    assert files["png"].startswith(b"\x89PNG") and files["pdf"].startswith(b"%PDF")
    assert planned_figures(summarise([], METRICS, CONTRAST)) == {}
