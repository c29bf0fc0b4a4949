"""Tables of side effects against direct computations, and what is picked of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from jobs.side_effects.pick import Pick, parse_pick, picked
from jobs.side_effects.prompts import Point, first_reached
from jobs.side_effects.rows import Measured
from jobs.side_effects.summary import Summary, summarise
from jobs.side_effects.tables import fidelity_schema, picked_schema, side_effects_schema
from steering_core.stats.clusters import Cluster, means_of_sums, side_by_side, sums_by_cluster
from steering_core.stats.flips import signs, simultaneous
from steersweep.errors import UserError
from tests.statistics.side_effects import false_findings, pick_bias
from tests.support.side_effects import AXES, CellOf, column, measured, quotient, share

NUM = 40
CLUSTER = [n % 20 for n in range(NUM)]
OWN = (column("gap", 0), share("share_yes", 1), column("length", 1))
SIDE = (share("acc", 0), quotient("ratio", 1, 2))
Rows = list[dict[str, Any]]


def rows_of(table: Any, **key: Any) -> Rows:
    return [row for row in table.to_pylist() if all(row[k] == v for k, v in key.items())]


def only(table: Any, **key: Any) -> dict[str, Any]:
    (row,) = rows_of(table, **key)
    return row


def values(seed: int, num_columns: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal((0, 0, 3)[:num_columns], 1, (NUM, num_columns))


def cells(before: np.ndarray, slope: float, seed: int) -> list[CellOf]:
    rng = np.random.default_rng(seed)
    found: list[CellOf] = []
    for layer, coeff in product((3, 6), (-2.0, 0.0, 2.0)):
        noise = 0.2 * rng.normal(size=before.shape)
        after = before + np.asarray([slope * coeff, 0, 0]) + noise
        found.append((layer, coeff, abs(coeff) / 10, after))
    return found


BEFORE, SIDE_BEFORE = values(0), values(1)
STEERED, HELD_OUT = cells(BEFORE, 0.5, 2), cells(BEFORE, 0.3, 3)
SIDE_STEERED = cells(SIDE_BEFORE, 0.1, 4)
PROMPTED = (None, None, None, BEFORE + np.asarray([0.4, 0.1, 0.0]))
SIDE_PROMPTED = (None, None, None, SIDE_BEFORE + np.asarray([0.5, 0.0, 0.0]))


def sweep() -> list[Measured]:
    def own(rows: list[CellOf], **about: Any) -> Measured:
        return measured(BEFORE, rows, OWN, cluster=CLUSTER, **about)

    def side(rows: list[CellOf], **about: Any) -> Measured:
        return measured(SIDE_BEFORE, rows, SIDE, data="quiz", kind="capability", **about)

    prompt = {"prompt": "polite", "vectors": ""}
    bias = measured(BEFORE, STEERED, [column("pct", 1)], data="pairs", kind="bias", cluster=CLUSTER)
    return [
        side(SIDE_STEERED), side([SIDE_PROMPTED], **prompt), bias,
        own(STEERED), own(HELD_OUT, vectors="held_out"), own([PROMPTED], **prompt),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarise(sweep(), AXES)


@pytest.fixture(scope="module")
def tables(summary: Summary) -> dict[str, Any]:
    return summary.tables()


def test_changes_are_what_the_scores_give(tables: dict[str, Any]) -> None:
    for at, (layer, coeff, dose, after) in enumerate(SIDE_STEERED):
        row = only(
            tables["side_effects"], layer=layer, coeff=coeff, set="quiz", metric="acc", group=""
        )
        is_right = [np.asarray(of[:, 0] > 0, float) for of in (SIDE_BEFORE, after)]
        change = is_right[1].mean() - is_right[0].mean()
        wanted = {
            "dose": dose, "before": is_right[0].mean(), "after": is_right[1].mean(),
            "change": change, "standardized": change / np.std(is_right[0], ddof=1),
            "num_examples": NUM, "num_clusters": NUM,
        }  # fmt: skip
        assert {name: row[name] for name in wanted} == pytest.approx(wanted), at
        ratio = only(
            tables["side_effects"], layer=layer, coeff=coeff, set="quiz", metric="ratio", group=""
        )
        means = [of[:, 1].mean() / of[:, 2].mean() for of in (SIDE_BEFORE, after)]
        assert ratio["change"] == pytest.approx(means[1] - means[0])


def test_the_matrix_has_held_out_vectors_and_the_others_are_shown(tables: dict[str, Any]) -> None:
    key = {"layer": 3, "coeff": 2.0, "metric": "gap", "group": ""}
    held_out, in_sample = rows_of(tables["side_effects"], **key)
    assert (held_out["vectors"], in_sample["vectors"]) == ("held_out", "in_sample")
    for row, of in ((held_out, HELD_OUT), (in_sample, STEERED)):
        assert row["change"] == pytest.approx((of[2][3] - BEFORE)[:, 0].mean())
    assert held_out["p"] is not None and held_out["is_clear"]
    assert (in_sample["p"], in_sample["simultaneous_low"], in_sample["is_clear"]) == (None,) * 3
    found = only(tables["fidelity"], layer=3, coeff=2.0)
    assert found["intended"] == pytest.approx(held_out["standardized"])


def test_measures_come_in_the_order_of_the_matrix(tables: dict[str, Any]) -> None:
    rows = tables["measures"].to_pylist()
    assert [(r["kind"], r["set"], r["metric"], r["in_matrix"]) for r in rows] == [
        ("target", "data", "gap", True),
        ("own", "data", "share_yes", False),  # the set has other metrics
        ("own", "data", "length", True),
        ("bias", "pairs", "pct", True),
        ("capability", "quiz", "acc", True),
        ("capability", "quiz", "ratio", True),
    ]
    shown = only(tables["side_effects"], layer=3, coeff=2.0, metric="share_yes", group="",
                 vectors="held_out")  # fmt: skip
    assert shown["change"] is not None and shown["is_clear"] is None


def test_shares_are_in_the_matrix_of_a_set_that_has_nothing_else() -> None:
    rows = [(3, 1.0, None, BEFORE + values(3))]
    shares = [share("share_a", 0), share("share_b", 1)]
    found = summarise([measured(BEFORE, rows, shares, data="poll", kind="other")], AXES)
    assert [measuring.in_matrix for measuring in found.measures] == [True, True]


def test_parts_of_a_set_are_rows_outside_the_matrix(tables: dict[str, Any]) -> None:
    key = {"layer": 6, "coeff": -2.0, "set": "pairs"}
    whole = only(tables["side_effects"], group="", **key)
    parts = [
        only(tables["side_effects"], group=f"half={name}", **key) for name in ("first", "second")
    ]
    assert [part["num_examples"] for part in parts] == [20, 20]
    assert np.mean([part["change"] for part in parts]) == pytest.approx(whole["change"])
    assert {part["p"] for part in parts} == {None}
    half = BEFORE[:20, 1]
    wanted = parts[0]["change"] / np.std(half, ddof=1)
    assert parts[0]["standardized"] == pytest.approx(wanted)


def test_statements_are_max_t_over_all_of_the_model(tables: dict[str, Any]) -> None:
    """Two data sets with the same names of clusters, which are not the same clusters."""
    first, second = ([*cells(values(n), 0.1, n + 5)][2:3] for n in (5, 6))
    sets = [
        measured(values(n), of, [column("gap", 0)], cluster=CLUSTER, **about)
        for n, of, about in ((5, first, {}), (6, second, {"data": "other", "kind": "bias"}))
    ]
    table = summarise(sets, AXES).tables()["side_effects"]
    found = [row for row in table.to_pylist() if row["group"] == ""]
    changes = [(of[0][3] - values(n))[:, [0]] for n, of in ((5, first), (6, second))]
    together = side_by_side(
        [
            means_of_sums(
                sums_by_cluster(change, np.asarray(CLUSTER), 20),
                np.full((20, 1), 2.0),
                [Cluster("", f"{name} {k}") for k in range(20)],
            )
            for name, change in zip("ab", changes, strict=True)
        ]
    )
    wanted = simultaneous(together, signs(40))
    assert [row["p"] for row in found] == pytest.approx(list(wanted.p))
    assert [row["simultaneous_low"] for row in found] == pytest.approx(list(wanted.low))


def test_no_change_and_an_undefined_one_break_nothing() -> None:
    side = values(1)
    still = [(3, 1.0, None, side), (3, 2.0, None, side * np.asarray([1, 1, np.nan]))]
    moved = [
        (3, 1.0, None, BEFORE + np.asarray([1.0, 0, 0]) + 0.1 * values(9)),
        (3, 2.0, None, BEFORE + 0.0),
    ]
    sets = [
        measured(BEFORE, moved, [OWN[0]], cluster=CLUSTER),
        measured(side, still, SIDE, data="quiz", kind="capability"),
        measured(side[:3], [(3, 1.0, None, side[:3] + 1)], [OWN[0]], data="tiny", kind="bias"),
    ]
    found = summarise(sets, AXES).tables()
    row = only(found["side_effects"], coeff=1.0, metric="acc", group="")
    assert (row["change"], row["p"], row["is_clear"]) == (0.0, 1.0, False)
    assert row["change_low"] is not None  # a share that did not change could have
    row = only(found["side_effects"], coeff=1.0, metric="ratio", group="")
    assert (row["change"], row["is_clear"]) == (0.0, False)
    assert row["simultaneous_low"] is None and row["change_low"] is None
    row = only(found["side_effects"], coeff=2.0, metric="ratio", group="")
    assert [row[n] for n in ("change", "p", "simultaneous_high")] == [None] * 3
    assert row["is_clear"] is False
    # Three clusters show nothing, and do not keep the others from being clear.
    row = only(found["side_effects"], set="tiny", group="")
    assert row["change"] == pytest.approx(1.0) and (row["p"], row["is_clear"]) == (None, False)
    assert only(found["side_effects"], coeff=1.0, set="data", group="")["is_clear"]
    # Coefficient 2 was not measured on all data: nobody knows what else it moved.
    missing = only(found["fidelity"], coeff=2.0)
    assert missing["unintended"] is None and not missing["is_best"]


def test_coefficient_0_has_a_row_and_is_no_test(tables: dict[str, Any]) -> None:
    rows = rows_of(tables["side_effects"], coeff=0.0, group="")
    assert len(rows) == 2 * 9
    assert {(row["p"], row["is_clear"]) for row in rows} == {(None, None)}
    assert not rows_of(tables["fidelity"], coeff=0.0)


def test_fidelity_sets_what_was_meant_against_the_rest(tables: dict[str, Any]) -> None:
    for row in tables["fidelity"].to_pylist():
        key = {name: row[name] for name in ("layer", "coeff", "prompt")}
        changes = [
            of
            for of in rows_of(tables["side_effects"], group="", **key)
            if of["is_clear"] is not None
        ]
        (target,) = (of["standardized"] for of in changes if of["kind"] == "target")
        assert row["intended"] == pytest.approx(target * np.sign(row["coeff"] or 1.0))
        # The prompt was not measured on pairs, so pairs count for nobody.
        assert row["num_measures"] == 3
        raw = [of["standardized"] ** 2 for of in changes if of["set"] == "quiz"]
        raw_own = [of["standardized"] ** 2 for of in changes if of["kind"] == "own"]
        assert 0 <= row["unintended"] <= np.sqrt(np.mean(raw) + np.mean(raw_own))
        wanted = row["intended"] / (abs(row["intended"]) + row["unintended"])
        assert row["fidelity"] == pytest.approx(wanted)
        assert row["dose"] == (None if row["prompt"] else 0.2)
        assert row["fidelity_low"] <= row["fidelity"] <= row["fidelity_high"]
    best = {
        (r["layer"], r["coeff"], r["prompt"]) for r in rows_of(tables["fidelity"], is_best=True)
    }
    ordered = [(r["unintended"], -r["intended"]) for r in tables["fidelity"].to_pylist()]
    assert best and len(best) == sum(
        not any(a <= x and b <= y and (a, b) != (x, y) for a, b in ordered) for x, y in ordered
    )


def test_a_prompt_is_matched_on_the_side_that_reaches_it(tables: dict[str, Any]) -> None:
    matches = tables["prompt_matches"].to_pylist()
    assert [match["layer"] for match in matches] == [3, 6]
    for match, (_, coeff, dose, after) in zip(matches, (HELD_OUT[2], HELD_OUT[5]), strict=True):
        at_two = (after - BEFORE)[:, 0].mean()
        assert match["change"] == pytest.approx(0.4)
        assert match["coeff"] == pytest.approx(coeff * 0.4 / at_two)
        assert match["dose"] == pytest.approx(dose * 0.4 / at_two)
        vector = only(tables["fidelity"], layer=match["layer"], coeff=2.0)["unintended"]
        assert match["unintended_of_vector"] == pytest.approx(vector * 0.4 / at_two)
        prompt = only(tables["fidelity"], prompt="polite")
        assert match["unintended_of_prompt"] == prompt["unintended"]


def test_the_smallest_dose_that_reaches_a_change_is_found() -> None:
    points = [Point(1, 0.1, 1, 2), Point(2, 0.2, 0.5, 3), Point(3, 0.3, 3, np.nan),
              Point(-1, -0.05, 0.9, 7)]  # fmt: skip
    assert first_reached(points, 0.5) == pytest.approx((-0.5 / 0.9, -0.025 / 0.9, 0.5, 3.5 / 0.9))
    assert first_reached(points, 0.95) == pytest.approx((0.95, 0.095, 0.95, 1.9))
    far = first_reached(points, 2.0)
    assert far is not None and far.dose == pytest.approx(0.26) and np.isnan(far.unintended)
    assert first_reached(points, 3.5) is None and first_reached(points, -0.1) is None
    assert first_reached(points, 0.0) == Point(0, 0, 0, 0)


def test_conditions_are_read() -> None:
    assert parse_pick("s2a >= 0.1") == Pick("s2a", ">=", 0.1)
    assert parse_pick("mmlu.acc>-2e-2") == Pick("mmlu.acc", ">", -0.02)
    assert Pick("gap", "<=", 1.0).holds(1.0) and not Pick("gap", "<", 1.0).holds(1.0)
    for text in ("gap", "gap = 1", "gap >= much", ">= 1", "gap >= nan", "gap >= 1 2", "a b > 1"):
        with pytest.raises(UserError, match=r">=, >, <=, <"):
            parse_pick(text)


def test_half_of_the_clusters_chooses_and_the_other_half_reports(summary: Summary) -> None:
    found = picked(summary, parse_pick("gap >= 0.3"))
    assert found.schema == picked_schema(AXES)
    rows = found.to_pylist()
    assert {(row["layer"], row["coeff"]) for row in rows} == {(3, 2.0), (6, 2.0), (None, None)}
    assert [row["rank"] for row in rows] == [1, 2, 3]
    order = [row["unintended_choosing"] for row in rows]
    assert order == sorted(order)
    for row in rows:
        whole = PROMPTED[3] if row["prompt"] else HELD_OUT[2 if row["layer"] == 3 else 5][3]
        # Clusters have two examples each: the whole is the mean of the two halves.
        both = (row["change_choosing"] + row["change"]) / 2
        assert both == pytest.approx((whole - BEFORE)[:, 0].mean())
        if not row["prompt"]:
            assert row["change_low"] < row["change"] < row["change_high"]
        assert row["still_holds"]
    assert picked(summary, parse_pick("gap >= 0.3")).equals(found)
    assert not len(picked(summary, parse_pick("gap > 9")))
    with pytest.raises(UserError, match=r"gap, share_yes, length, pairs.pct, quiz.acc, quiz.ratio"):
        picked(summary, parse_pick("acc >= 0.3"))


def test_without_an_intention_there_is_no_fidelity_and_one_can_still_pick() -> None:
    rows = [replace(of, target="", vectors="file") for of in sweep() if of.vectors == "in_sample"]
    summary = summarise(rows, AXES)
    found = summary.tables()
    assert not len(found["fidelity"]) and not len(found["prompt_matches"])
    assert set(found["measures"]["kind"].to_pylist()) == {"own", "bias", "capability"}
    chosen = picked(summary, parse_pick("gap > 0.5")).to_pylist()
    assert len(chosen) == 2 and all(row["unintended_choosing"] is not None for row in chosen)


def test_no_rows_give_tables_without_rows() -> None:
    found = summarise([], AXES).tables()
    assert {name: len(table) for name, table in found.items()} == dict.fromkeys(found, 0)
    assert found["side_effects"].schema == side_effects_schema(AXES)
    assert found["fidelity"].schema == fidelity_schema(AXES)


def test_nothing_is_clear_where_nothing_moves() -> None:
    assert false_findings(60, 299) <= 0.12


def test_the_half_that_reports_is_not_flattered() -> None:
    """All steerings do the same, so the best of them is luck; the other half does not have it."""
    errors = pick_bias(25, steerings=8)
    assert errors.unintended_choosing < -0.05 and errors.change_choosing > 0.04, errors
    assert abs(errors.unintended) < 0.04 and abs(errors.change) < 0.04, errors
