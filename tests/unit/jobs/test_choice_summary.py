"""Tables of a choices sweep against direct computations from the scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as students_t

from jobs.choices.summary import FitRows, summarise
from jobs.estimates.cells import estimates_of
from jobs.estimates.sums import Unsteered
from steering_core.datasets.base import Metric, ScoredChoices
from steering_core.datasets.text import TEXT
from steering_core.nulls import draw_seed, label_signs
from tests.support.choice_results import (
    CHOSE_YES,
    CONTRAST,
    METRICS,
    example,
    fit_rows,
    sweep,
    tables,
)

Rows = list[dict[str, Any]]


def held(rows: FitRows) -> FitRows:
    """With cells that can be read again."""
    return replace(rows, cells=list(rows.cells))


def rows_of(table: Any, **key: Any) -> Rows:
    return [row for row in table.to_pylist() if all(row[k] == v for k, v in key.items())]


def only(table: Any, **key: Any) -> dict[str, Any]:
    (row,) = rows_of(table, **key)
    return row


def gap(scored: ScoredChoices) -> np.ndarray:
    """The first candidate is yes, the second no."""
    mean = scored.sums / np.maximum(scored.num_tokens, 1)
    return np.asarray(mean[:, 0] - mean[:, 1])


def chosen(scored: ScoredChoices) -> list[int]:
    return [
        max(range(len(of.candidates)), key=lambda c, n=n: scored.sums[n, c])  # type: ignore[misc]
        for n, of in enumerate(scored.examples)
    ]


@pytest.fixture(scope="module")
def fits() -> list[FitRows]:
    return [held(fit_rows(fit, num_clusters=12)) for fit in ("work", "home")]


@pytest.fixture(scope="module")
def found(fits: list[FitRows]) -> dict[str, Any]:
    return summarise(fits, METRICS, CONTRAST)


def test_each_number_of_a_cell_is_what_the_scores_give(
    fits: list[FitRows], found: dict[str, Any]
) -> None:
    for of_fit in fits:
        before = chosen(of_fit.baseline)
        for layer, coeff, dose, steered, kl in of_fit.cells:
            row = only(found["cells"], fit=of_fit.fit, layer=layer, coeff=coeff)
            after, change = chosen(steered), gap(steered) - gap(of_fit.baseline)
            yes = [np.mean([c == 0 for c in of]) for of in (before, after)]
            no = [np.mean([c == 1 for c in of]) for of in (before, after)]
            wanted = {
                "gap": gap(steered).mean(),
                "gap_change": change.mean(),
                "chose_yes": yes[1],
                "chose_yes_change": yes[1] - yes[0],
                "yes_to_no": yes[1] / no[1],
                "yes_to_no_change": yes[1] / no[1] - yes[0] / no[0],
                "changed": np.mean([a != b for a, b in zip(before, after, strict=True)]),
                "anti_steered": np.mean(change * coeff < 0),
                "dose": dose,
            }
            assert kl is not None
            tokens = steered.num_tokens.sum(axis=1)
            wanted["kl"] = (kl * tokens).sum() / tokens.sum()
            assert {name: row[name] for name in wanted} == pytest.approx(wanted)
            assert (row["num_examples"], row["num_clusters"]) == (60, 12)


def test_the_interval_of_the_gap_is_clustered(fits: list[FitRows], found: dict[str, Any]) -> None:
    layer, coeff, _, steered, _ = next(iter(fits[0].cells))
    row = only(found["cells"], fit="work", layer=layer, coeff=coeff)
    change = gap(steered) - gap(fits[0].baseline)
    by_cluster = [change[k::12] - change.mean() for k in range(12)]
    error = np.sqrt(12 / 11 * sum((of.sum() / 60) ** 2 for of in by_cluster))
    half = students_t.ppf(0.975, 11) * error
    ends = (row["gap_change_low"], row["gap_change_high"])
    assert ends == pytest.approx((change.mean() - half, change.mean() + half))


def test_pooled_rows_are_over_examples_of_all_fits_and_means_over_layers(
    fits: list[FitRows], found: dict[str, Any]
) -> None:
    def change(fit: FitRows, layer: int) -> np.ndarray:
        at = next(cell for cell in fit.cells if cell[:2] == (layer, 2.0))
        return np.subtract(gap(at[3]), gap(fit.baseline))

    by_layer = [np.concatenate([change(fit, layer) for fit in fits]).mean() for layer in (3, 6)]
    for layer, wanted in ((3, by_layer[0]), (6, by_layer[1]), (None, np.mean(by_layer))):
        row = only(found["pooled"], fit=None, layer=layer, coeff=2.0)
        assert row["gap_change"] == pytest.approx(wanted)
        assert row["num_examples"] == 120
        assert row["num_clusters"] == 12  # both fits have examples of each
    row = only(found["pooled"], fit="work", layer=None, coeff=2.0)
    assert row["gap_change"] == pytest.approx(
        np.mean([change(fits[0], la).mean() for la in (3, 6)])
    )


def test_groups_are_parts_of_a_cell(fits: list[FitRows], found: dict[str, Any]) -> None:
    rows = rows_of(found["groups"], fit="work", layer=3, coeff=2.0, group_key="kind")
    cell = only(found["cells"], fit="work", layer=3, coeff=2.0)
    assert [row["group_value"] for row in rows] == ["even", "odd"]
    assert sum(row["num_examples"] for row in rows) == 60
    assert np.mean([row["gap_change"] for row in rows]) == pytest.approx(cell["gap_change"])
    assert not rows_of(found["groups"], group_key="topic")  # one value in each fit


def test_the_baseline_has_every_group_and_all_fits(
    fits: list[FitRows], found: dict[str, Any]
) -> None:
    row = only(found["baseline"], fit="work", group_key="")
    assert row["chose_yes"] == np.mean([c == 0 for c in chosen(fits[0].baseline)])
    assert row["gap"] == pytest.approx(gap(fits[0].baseline).mean())
    assert len(rows_of(found["baseline"], fit=None)) == 1
    assert len(rows_of(found["baseline"], fit="home", group_key="kind")) == 2


def test_scores_that_are_not_finite_are_left_out_before_and_after() -> None:
    rows = held(fit_rows(num=20, layers=[3], coeffs=[1.0]))
    ((layer, coeff, dose, steered, kl),) = rows.cells
    broken = replace(steered, sums=steered.sums.copy())
    broken.sums[4, 0] = np.nan
    broken.sums[5, 1] = -np.inf
    rows = replace(rows, cells=[(layer, coeff, dose, broken, kl)])
    row = only(summarise([rows], METRICS, CONTRAST)["cells"])
    there = np.setdiff1d(np.arange(20), [4, 5])
    assert row["num_non_finite"] == 2
    assert row["gap_change"] == pytest.approx((gap(steered) - gap(rows.baseline))[there].mean())
    is_defined = np.arange(20) != 4  # -inf is a score that cannot be chosen
    before, after = (np.asarray(chosen(of)) == 0 for of in (rows.baseline, steered))
    after[5] = not np.isfinite(broken.sums[5, 1]) and broken.sums[5, 0] == np.nanmax(broken.sums[5])
    wanted = after[is_defined].mean() - before[is_defined].mean()
    assert row["chose_yes_change"] == pytest.approx(wanted)


def test_coefficient_0_changes_nothing_and_is_no_test() -> None:
    rows = held(fit_rows(num=20, layers=[3], coeffs=[0.0, 1.0]))
    at_one = list(rows.cells)[1]
    rows = replace(rows, cells=[(3, 0.0, 0.0, rows.baseline, None), at_one])
    found = summarise([rows], METRICS, CONTRAST)
    row = only(found["cells"], coeff=0.0)
    assert (row["gap_change"], row["changed"], row["gap_change_p"]) == (0.0, 0.0, 1.0)
    assert row["gap_change_q"] is None
    assert row["anti_steered"] is None
    assert not rows_of(found["findings"], coeff=0.0)


def test_a_single_cluster_has_no_interval_and_nothing_is_raised() -> None:
    rows = fit_rows(num=20, num_clusters=1, layers=[3], coeffs=[1.0])
    row = only(summarise([rows], METRICS, CONTRAST)["cells"])
    for name in ("gap_change", "chose_yes", "yes_to_no_change", "changed"):
        assert row[name] is not None
        assert row[f"{name}_low"] is None and row[f"{name}_high"] is None


def test_no_rows_give_tables_without_rows() -> None:
    found = summarise([], METRICS, CONTRAST)
    assert {
        name: len(table) for name, table in found.items() if name != "metrics"
    } == dict.fromkeys(
        ("baseline", "cells", "pooled", "held_out", "groups", "nulls", "null_tests", "findings"), 0
    )


def test_without_a_contrast_there_is_no_gap() -> None:
    found = summarise(sweep(num_draws=1, held_out=None), METRICS, None)
    assert "gap_change" not in found["cells"].column_names
    assert not len(found["null_tests"])
    assert set(found["findings"]["family"].to_pylist()) == {"metrics"}


@pytest.mark.parametrize("null", ["random", "shuffled"])
def test_draws_are_scored_under_their_own_labels(null: str) -> None:
    fitted = held(fit_rows(layers=[3], coeffs=[2.0]))
    draws = [
        held(fit_rows(layers=[3], coeffs=[2.0], null=null, draw=d, slope=d / 4)) for d in range(4)
    ]
    found = summarise([fitted, *draws], METRICS, CONTRAST, seed=5)
    values = []
    for draw, rows in enumerate(draws):
        ((_, _, _, steered, _),) = rows.cells
        sign = np.ones(60)
        if null == "shuffled":
            ids = [of.example_id for of in rows.baseline.examples]
            sign = label_signs(ids, draw_seed("shuffled", 5, draw))
        values.append((sign * (gap(steered) - gap(rows.baseline))).mean())
    stored = [row["gap_change"] for row in rows_of(found["nulls"], layer=3)]
    assert stored == pytest.approx(values)
    value = only(found["cells"])["gap_change"]
    test = only(found["null_tests"], null=null)
    assert test["rank"] == 1 + sum(of >= value for of in values)
    assert test["p"] == test["rank"] / 5


def test_held_out_rows_say_how_much_more_in_sample_vectors_do() -> None:
    found = tables(num_draws=0)
    assert set(found["cells"]["vectors"].to_pylist()) == {"in_sample"}
    for row in found["held_out"].to_pylist():
        key = {name: row[name] for name in ("fit", "layer", "coeff")}
        more = only(found["cells"], **key)["gap_change"] - row["gap_change"]
        assert row["in_sample_excess"] == pytest.approx(more)
        assert row["in_sample_excess_low"] < more < row["in_sample_excess_high"]
    assert set(found["findings"]["vectors"].to_pylist()) == {"held_out"}


def test_vectors_from_a_file_intend_nothing() -> None:
    found = summarise([fit_rows(vectors="file")], METRICS, CONTRAST)
    assert set(found["cells"]["anti_steered"].to_pylist()) == {None}
    assert set(found["findings"]["is_intended"].to_pylist()) == {None}


def test_a_share_in_percent_is_a_share_times_100() -> None:
    percent = Metric("percent", "", "", "", CHOSE_YES.terms, lambda m: 100 * m[..., 0], "percent")
    rows = held(fit_rows(layers=[3], coeffs=[0.5]))
    share, times_100 = (
        only(summarise([rows], [metric], CONTRAST)["cells"]) for metric in (CHOSE_YES, percent)
    )
    for end in ("", "_low", "_high", "_change", "_change_low", "_change_high"):
        assert times_100[f"percent{end}"] == pytest.approx(100 * share[f"chose_yes{end}"])
    assert times_100["percent_change_p"] == share["chose_yes_change_p"]


def test_texts_have_clustered_intervals_over_tokens_and_no_choice_that_could_change() -> None:
    rng, num_texts, num_clusters = np.random.default_rng(4), 30, 12
    records = [{"text": f"text {n}", "cluster": f"c{n % num_clusters}"} for n in range(num_texts)]
    tokens = rng.integers(3, 60, (num_texts, 1))
    texts = TEXT.read(records, "f")
    before, after = (
        ScoredChoices(texts, tokens * rng.normal(mean, 0.5, tokens.shape), tokens)
        for mean in (-3.0, -3.4)
    )
    sums = Unsteered.of(before, TEXT.metrics([])).compared(after).sums()
    found = estimates_of(sums, TEXT.metrics([]), gap=None, coeff=None)
    assert "changed" not in found
    t = students_t.ppf(0.975, num_clusters - 1)
    means = [of.sums.sum() / tokens.sum() for of in (before, after)]
    # The influence of a text on a ratio of sums, summed within clusters (Cameron, Miller 2015).
    influences = []
    for of, mean in zip((before, after), means, strict=True):
        of_text = (of.sums - mean * tokens)[:, 0] / tokens.sum()
        influences.append(np.bincount(np.arange(num_texts) % num_clusters, of_text))
    slopes = [-np.exp(-mean) for mean in means]
    wanted = {
        "log_prob": (means[1], influences[1]),
        "log_prob_change": (means[1] - means[0], influences[1] - influences[0]),
        "perplexity": (np.exp(-means[1]), slopes[1] * influences[1]),
        "perplexity_change": (
            np.exp(-means[1]) - np.exp(-means[0]),
            slopes[1] * influences[1] - slopes[0] * influences[0],
        ),
    }
    for name, (value, influence) in wanted.items():
        half = t * np.sqrt(num_clusters / (num_clusters - 1) * (influence**2).sum())
        assert float(found[name].estimate.value.item()) == pytest.approx(value)
        assert found[name].low == pytest.approx(value - half, rel=1e-6)
        assert found[name].high == pytest.approx(value + half, rel=1e-6)


def test_changes_of_a_share_and_of_a_ratio_are_covered() -> None:
    """Clustered examples whose shares before and after steering are known."""
    rng = np.random.default_rng(0)
    num_clusters, size, num_runs = 25, 8, 1_000
    found = [example(n, cluster=f"c{n % num_clusters}") for n in range(num_clusters * size)]
    tokens = np.ones((len(found), 2), np.int64)
    # P(yes) is 0.5 before and, through the cluster's own rate, 0.6 on average after.
    truth = {"chose_yes_change": 0.1, "yes_to_no_change": 0.6 / 0.4 - 1.0}
    covered = dict.fromkeys(truth, 0)
    for _ in range(num_runs):
        rate = rng.beta(6, 4, num_clusters)
        yes = [rng.random(len(found)) < 0.5, rng.random(len(found)) < np.tile(rate, size)]
        before, after = (
            ScoredChoices(
                found, np.column_stack([np.where(of, -1.0, -3.0), np.full(len(of), -2.0)]), tokens
            )
            for of in yes
        )
        sums = Unsteered.of(before, METRICS).compared(after).sums()
        estimates = estimates_of(sums, METRICS, gap=None, coeff=None)
        for name, value in truth.items():
            covered[name] += estimates[name].low <= value <= estimates[name].high
    shares = {name: num / num_runs for name, num in covered.items()}
    assert all(0.925 <= share <= 0.98 for share in shares.values()), shares
