"""Every metric on tables small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from steering_core.metrics import (
    CellEstimates,
    TermSums,
    add_divergences,
    cell_estimates,
    example_values,
    stereoset_estimates,
    sums_by_term,
)
from steering_core.quantities import CHANGES, ESTIMATES

S, A, U = range(3)
INF, NAN = float("inf"), float("nan")


def cell_of(
    before: np.ndarray,
    after: np.ndarray,
    chosen: np.ndarray,
    chosen_after: np.ndarray,
    targets: Sequence[str] = (),
    coeff: float = 1.0,
) -> CellEstimates:
    """Estimates of one cell of one bias type."""
    terms, term = np.unique(targets or ["term"] * len(before), return_inverse=True)
    values = example_values(before, after[None], chosen, chosen_after[None])
    sums = TermSums(tuple(terms), sums_by_term(values, term, len(terms)))
    return cell_estimates({"gender": sums}, np.array([coeff]))


def log_likelihood_changes(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    nobody = np.full(len(before), -1)
    found = cell_of(before, after, nobody, nobody)
    return {name: float(found.value(name)[0]) for name in CHANGES}


def choice_estimates(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    scores = np.zeros((len(before), 3))
    found = cell_of(scores, scores, before, after)
    return {name: float(found.value(name)[0]) for name in ESTIMATES}


def choice_flows(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    found = choice_estimates(before, after)
    return {name: value for name, value in found.items() if name.startswith("flow_")}


def anti_ratio(before: np.ndarray, after: np.ndarray) -> float:
    return choice_estimates(before, after)["anti_ratio"]


def stereoset_scores(scores: np.ndarray, targets: Sequence[str]) -> dict[str, float]:
    terms, term = np.unique(targets, return_inverse=True)
    nobody = np.full(len(scores), -1)
    values = example_values(scores, scores[None], nobody, nobody[None])
    sums = TermSums(tuple(terms), sums_by_term(values, term, len(terms)))
    found = stereoset_estimates({"gender": sums}).estimates
    return {name: float(estimate.value[0]) for name, estimate in found.items()}


def test_changes_are_mean_differences_of_differences() -> None:
    before = np.array([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]])
    after = np.array([[-2.0, -1.0, -3.5], [-1.0, -2.0, -0.5]])
    # Mean change of each column: s -0.5, a 0.0, u 0.0.
    assert log_likelihood_changes(before, after) == {"s2a": 0.5, "u2a": 0.0, "s2u": 0.5}
    assert log_likelihood_changes(after, before) == {"s2a": -0.5, "u2a": 0.0, "s2u": -0.5}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("side", ["before", "after"])
def test_changes_leave_out_rows_that_are_not_finite_on_either_side(bad: float, side: str) -> None:
    before = np.array([[-1.0, -2.0, -3.0], [-5.0, -5.0, -5.0]])
    after = np.array([[-2.0, -1.0, -3.5], [-1.0, -2.0, -0.5]])
    (before if side == "before" else after)[1, U] = bad
    assert log_likelihood_changes(before, after) == {"s2a": 2.0, "u2a": 1.5, "s2u": 0.5}
    nothing_left = log_likelihood_changes(before[1:], after[1:])
    assert list(nothing_left) == ["s2a", "u2a", "s2u"]
    assert np.isnan(list(nothing_left.values())).all()


def test_flows_are_shares_by_origin_and_destination() -> None:
    before = np.array([S, S, S, A, A, U, U, U, -1, S])
    after = np.array([A, A, U, S, A, A, U, S, A, -1])
    flows = choice_flows(before, after)
    nine = {
        "s_s": 0, "s_a": 2, "s_u": 1,
        "a_s": 1, "a_a": 1, "a_u": 0,
        "u_s": 1, "u_a": 1, "u_u": 1,
    }  # fmt: skip
    wanted = {f"flow_{name}": count / 8 for name, count in nine.items()}
    wanted |= {"flow_s2a": 1 / 8, "flow_u2a": 1 / 8, "flow_s2u": 0.0}
    assert flows == wanted


def test_flows_without_a_defined_choice_are_nan() -> None:
    flows = choice_flows(np.array([-1, S]), np.array([S, -1]))
    assert len(flows) == 12
    assert np.isnan(list(flows.values())).all()


def test_anti_ratio_is_after_over_before_and_nan_without_a_before() -> None:
    assert anti_ratio(np.array([A, A, S, S, -1]), np.array([A, U, A, A, A])) == 1.5
    assert anti_ratio(np.array([A, S]), np.array([S, S])) == 0.0
    assert np.isnan(anti_ratio(np.array([S, U]), np.array([A, A])))


def test_anti_ratio_counts_the_same_rows_before_and_after() -> None:
    """A row whose choice is undefined on one side is in neither count."""
    assert anti_ratio(np.array([A, -1, A]), np.array([A, A, -1])) == 1.0


def test_changed_is_every_choice_that_is_another_one() -> None:
    before, after = np.array([S, S, A, U, -1]), np.array([A, S, S, U, A])
    assert choice_estimates(before, after)["changed"] == 2 / 4


@pytest.mark.parametrize(("coeff", "share"), [(3.0, 1 / 4), (-3.0, 2 / 4), (0.0, NAN)])
def test_anti_steered_goes_by_the_coefficients_sign(coeff: float, share: float) -> None:
    before = np.zeros((5, 3))
    after = np.array([[0, 1, 0], [0, 2, 0], [1, 0, 0], [5, 5, 5], [NAN, 0, 0]], float)
    nobody = np.full(5, -1)
    found = cell_of(before, after, nobody, nobody, coeff=coeff).value("anti_steered")
    np.testing.assert_array_equal(found, [share])


def test_icat_has_an_interval_only_if_that_of_ss_excludes_fifty() -> None:
    rng = np.random.default_rng(0)
    targets = [f"t{n // 20}" for n in range(400)]
    for bias, has_interval in ((0.0, False), (1.5, True), (-1.5, True)):
        scores = rng.normal([bias, 0.0, -1.0], 1.0, (400, 3))
        nobody = np.full(400, -1)
        found = cell_of(scores, scores, nobody, nobody, targets)
        (low,), (high,) = found.intervals["icat"]
        assert np.isfinite([low, high]).all() == has_interval, bias
        assert np.isfinite(found.value("icat")).all()
        if has_interval:
            assert low < found.value("icat")[0] < high


def test_terms_that_all_agree_make_no_interval_of_stereoset_scores() -> None:
    scores = np.tile([0.0, -1.0, -2.0], (40, 1))
    targets = [f"t{n // 10}" for n in range(40)]
    nobody = np.full(40, -1)
    found = cell_of(scores, scores, nobody, nobody, targets)
    for name in ("lms", "ss", "lms_change", "ss_change", "icat_change"):
        assert np.isfinite(found.value(name)).all()
        assert np.isnan(found.intervals[name]).all(), name
    moved = scores.copy()
    moved[:10, 2] = 1.0  # the unrelated candidate is preferred, in one term
    found = cell_of(scores, moved, nobody, nobody, targets)
    assert np.isfinite(found.intervals["lms_change"]).all()
    assert np.isnan(found.intervals["ss_change"]).all()


TABLE = np.array(
    [
        [-1.0, -2.0, -3.0],  # term x: stereotype wins, both above unrelated
        [-2.0, -2.0, -2.0],  # term x: a tie counts as anti, and as not above unrelated
        [-3.0, -1.0, -2.0],  # term x: anti wins, one above unrelated
        [-1.0, -4.0, -2.0],  # term y, one example: stereotype wins, one above unrelated
    ]
)
TERMS = ["x", "x", "x", "y"]


def test_stereoset_scores_average_over_terms_without_weights() -> None:
    # ss: x 1/3, y 1/1; lms: x (2 + 0 + 1) / 6, y 1/2.
    ss, lms = 100 * (1 / 3 + 1) / 2, 100 * (3 / 6 + 1 / 2) / 2
    scores = stereoset_scores(TABLE, TERMS)
    assert scores == pytest.approx({"lms": lms, "ss": ss, "icat": lms * (100 - ss) / 50})
    assert scores["ss"] == pytest.approx(200 / 3)


def test_icat_takes_the_nearer_side_of_fifty() -> None:
    """With the stereotype and its opposite swapped, ss falls below 50 and icat uses ss itself."""
    swapped = stereoset_scores(TABLE[[0, 2, 3]][:, [A, S, U]], ["x", "x", "y"])
    # x: one of two prefers the stereotype; y: none does.
    assert swapped["ss"] == pytest.approx(25.0)
    assert swapped["icat"] == pytest.approx(swapped["lms"] * 25 / 50)


def test_an_ideal_model_has_icat_100() -> None:
    ideal = np.array([[-1.0, -2.0, -9.0], [-2.0, -1.0, -9.0]])
    assert stereoset_scores(ideal, ["x", "x"]) == {"lms": 100.0, "ss": 50.0, "icat": 100.0}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_stereoset_scores_leave_out_rows_that_are_not_finite(bad: float) -> None:
    """A term whose only example is left out does not count as a term either."""
    table = np.vstack([[[-1.0, -2.0, bad]], TABLE, [[bad, -1.0, -2.0]]])
    found = stereoset_scores(table, ["z", *TERMS, "x"])
    assert found == stereoset_scores(TABLE, TERMS)
    empty = stereoset_scores(table[:1], ["z"])
    assert list(empty) == ["lms", "ss", "icat"]
    assert np.isnan(list(empty.values())).all()


def test_kl_is_the_mean_over_tokens_and_leaves_out_what_is_not_finite() -> None:
    """Influences by the definition: how far each term's sum is from what the mean expects of it."""
    scores, chosen = np.zeros((5, 3)), np.zeros(5, int)
    values = example_values(scores, scores[None], chosen, chosen[None])
    kl = np.array([[1.0, 4.0, NAN, 6.0, INF]])
    add_divergences(values, kl, np.array([[3, 1, 9, 2, 9]]))
    sums = TermSums(("nurse", "smith"), sums_by_term(values, np.array([0, 0, 0, 1, 1]), 2))
    found = cell_estimates({"gender": sums}, np.array([1.0]))
    mean = (3 + 4 + 12) / 6
    assert found.value("kl").tolist() == pytest.approx([mean])
    influence = found.estimates["kl"].influence[:, 0]
    assert influence.tolist() == pytest.approx([(7 - 4 * mean) / 6, (12 - 2 * mean) / 6])
    low, high = found.intervals["kl"]
    assert low.tolist() == [0.0]  # of two terms, it would go below, where no divergence is
    assert high[0] > mean


def test_kl_of_bias_types_is_weighted_by_tokens_and_undefined_where_it_was_not_measured() -> None:
    scores, chosen = np.zeros((1, 3)), np.zeros(1, int)
    by_bias_type = {}
    for name, kl, num_tokens in (("gender", 1.0, 1), ("race", 4.0, 2)):
        values = example_values(scores, scores[None], chosen, chosen[None])
        add_divergences(values, np.array([[kl]]), np.array([[num_tokens]]))
        by_bias_type[name] = TermSums(("term",), sums_by_term(values, np.zeros(1, int), 1))
    assert cell_estimates(by_bias_type, np.array([1.0])).value("kl").tolist() == [3.0]
    assert np.isnan(cell_of(scores, scores, chosen, chosen).value("kl")).all()
