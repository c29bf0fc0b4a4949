"""The comparison behind the certificate: what is a difference, what a failure, what neither."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from steering_core.certificate import (
    TOLERANCES,
    Certificate,
    Deviation,
    RowName,
    Tolerance,
    draw,
    tolerance_for,
)
from steersweep.errors import UserError

NAN, INF = np.nan, np.inf
TOLERANCE = Tolerance(score=1e-4, pooled=1e-3)


def named(number: int) -> RowName:
    place = (("split", "intersentence"), ("bias_type", "race"))
    return RowName(f"example-{number}", place, layer=number, coeff=2.0)


def compare(found: list[list[float]], wanted: list[list[float]]) -> Certificate:
    names = [named(n) for n in range(len(found))]
    return Certificate.of_scores(names, np.array(found), np.array(wanted), TOLERANCE)


def test_the_largest_difference_and_its_row_are_found_whatever_the_sign() -> None:
    base = [[-1.0, -2.0, -3.0]] * 3
    found = [[-1.0, -2.0, -3.0], [-1.0, -2.0 - 3e-5, -3.0], [-1.0 + 2e-5, -2.0, -3.0]]
    certificate = compare(found, base)
    assert certificate.num_rows_checked == 3
    assert certificate.largest_difference == pytest.approx(3e-5)
    assert certificate.worst is not None
    assert certificate.worst.row == named(1)
    assert (certificate.num_changed_choices, certificate.num_one_sided) == (0, 0)
    assert certificate.holds


@pytest.mark.parametrize(("gap", "holds"), [(0.99e-4, True), (1.01e-4, False)])
def test_the_tolerance_is_the_limit(gap: float, holds: bool) -> None:
    certificate = compare([[-1.0, -2.0, -3.0]], [[-1.0, -2.0, -3.0 + gap]])
    assert certificate.holds == holds


def test_nan_on_both_sides_is_counted_and_is_no_difference() -> None:
    certificate = compare([[NAN, -2.0, NAN]], [[NAN, -2.0, NAN]])
    assert (certificate.num_non_finite, certificate.num_one_sided) == (2, 0)
    assert (certificate.largest_difference, certificate.num_changed_choices) == (0.0, 0)
    assert certificate.holds


@pytest.mark.parametrize(("a", "b"), [(NAN, INF), (INF, -INF), (-INF, -INF)])
def test_overflow_counts_as_equal_whatever_comes_out_of_it(a: float, b: float) -> None:
    certificate = compare([[a, -2.0, -3.0]], [[b, -2.0, -3.0]])
    assert (certificate.num_non_finite, certificate.num_one_sided) == (1, 0)
    assert certificate.holds


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("is_ours", [True, False])
def test_finite_on_one_side_only_is_a_failure(bad: float, is_ours: bool) -> None:
    odd, good = [[-1.0, bad, -3.0]], [[-1.0, -2.0, -3.0]]
    certificate = compare(odd, good) if is_ours else compare(good, odd)
    assert (certificate.num_non_finite, certificate.num_one_sided) == (0, 1)
    assert not certificate.holds
    assert certificate.worst is not None
    assert certificate.worst.difference is None
    assert "finite in only one of the two passes" in str(certificate.worst)


def test_a_choice_that_a_tie_decides_is_counted_and_no_failure() -> None:
    tie = [[-1.0, -1.0, -3.0]]
    assert compare(tie, tie).num_changed_choices == 0
    certificate = compare(tie, [[-1.0, -1.0 + 1e-7, -3.0]])
    assert certificate.num_changed_choices == 1
    assert certificate.holds


def test_stored_choices_are_held_against_the_scores_computed_again() -> None:
    scores = np.array([[-1.0, -2.0, -3.0], [NAN, -2.0, -3.0]])
    rows = [named(0), named(1)]
    for stored, num_changed in (([0, -1], 0), ([2, -1], 1), ([0, 1], 1)):
        choices = list(zip(stored, [0, -1], strict=True))
        found = Certificate.of_scores(rows, scores, scores, TOLERANCE, choices)
        assert found.num_changed_choices == num_changed


def test_pooled_differences_are_relative_and_have_their_own_limit() -> None:
    wanted = np.array([3.0, 4.0])
    row = named(3)
    within = Certificate.of_pooled(row, wanted * (1 + 9e-4), wanted, TOLERANCE)
    assert within.holds
    assert within.largest_pooled_difference == pytest.approx(9e-4)
    assert (within.num_rows_checked, within.largest_difference) == (0, 0.0)
    assert not Certificate.of_pooled(row, wanted * (1 + 2e-3), wanted, TOLERANCE).holds
    assert not Certificate.of_pooled(row, wanted * NAN, wanted, TOLERANCE).holds
    both = Certificate.of_pooled(row, wanted * INF, wanted * NAN, TOLERANCE)
    assert (both.holds, both.num_non_finite) == (True, 1)


def test_a_pooled_difference_of_zero_is_compared_as_it_is() -> None:
    zero = np.zeros(2)
    assert Deviation.of_pooled(zero, zero).largest == 0.0
    assert Deviation.of_pooled(zero + 1e-9, zero).largest < 1e-8


@pytest.mark.parametrize(
    ("found", "wanted", "holds"),
    [
        (0.5 + 0.9e-4, 0.5, True),
        (0.5 + 1.1e-4, 0.5, False),
        (8.0 + 7e-4, 8.0, True),
        (8.0 + 9e-4, 8.0, False),
        (NAN, NAN, True),
        (NAN, 2.0, False),
        (2.0, NAN, False),
    ],
)
def test_a_divergence_is_held_to_the_tolerance_of_scores_in_proportion_to_its_size(
    found: float, wanted: float, holds: bool
) -> None:
    of_kl = Certificate.of_kl([named(1)], np.array([found]), np.array([wanted]), TOLERANCE)
    assert of_kl.holds == holds
    joined = Certificate.joined([compare([[-1.0] * 3], [[-1.0] * 3]), of_kl])
    assert joined.holds == holds
    assert joined.num_rows_checked == 1
    assert joined.largest_difference == 0.0
    gap = 0.0 if np.isnan(found + wanted) else found - wanted
    assert joined.largest_kl_difference == pytest.approx(gap)
    if not holds:
        assert "divergence from the unsteered distribution" in str(joined.worst)


def test_joined_certificates_add_up_and_keep_the_worst_row_measured_in_its_tolerance() -> None:
    small = compare([[-1.0, -2.0, -3.0]], [[-1.0, -2.0, -3.0 + 5e-5]])
    pooled = Certificate.of_pooled(named(7), np.array([1.0 + 9e-4]), np.array([1.0]), TOLERANCE)
    whole = Certificate.joined([small, pooled, compare([[NAN] * 3], [[NAN] * 3])])
    assert (whole.num_rows_checked, whole.num_non_finite) == (2, 3)
    assert whole.largest_difference == pytest.approx(5e-5)
    assert whole.largest_pooled_difference == pytest.approx(9e-4)
    assert whole.worst is not None
    assert (whole.worst.row, whole.worst.quantity) == (named(7), "pooled")
    assert whole.holds
    assert Certificate.joined([]) == Certificate()


def test_a_one_sided_value_is_worse_than_any_difference() -> None:
    far = compare([[0.0, -2.0, -3.0]], [[-9.0, -2.0, -3.0]])
    odd = compare([[NAN, -2.0, -3.0]], [[-1.0, -2.0, -3.0]])
    for order in ([far, odd], [odd, far]):
        worst = Certificate.joined(order).worst
        assert worst is not None
        assert worst.difference is None


def test_the_message_names_cell_example_difference_and_limit() -> None:
    text = str(compare([[-1.0, -2.0, -3.5]], [[-1.0, -2.0, -3.0]]).worst)
    for words in ("layer 0", "coeff 2", "example-0", "intersentence/race", "0.5 nats", "0.0001"):
        assert words in text


def test_each_dtype_has_a_tolerance_and_scores_can_have_another() -> None:
    assert TOLERANCES["float32"].score == 1e-4
    assert tolerance_for("bfloat16", 0.5) == Tolerance(0.5, TOLERANCES["bfloat16"].pooled)
    with pytest.raises(UserError, match="float8"):
        tolerance_for("float8")


def test_draws_are_distinct_repeatable_and_reach_everything() -> None:
    assert draw("task", 100, 5) == draw("task", 100, 5) != draw("other", 100, 5)
    assert draw("task", 3, 5) == [0, 1, 2]
    assert draw("task", 10, 0) == []
    drawn = Counter(n for seed in range(300) for n in draw(str(seed), 10, 2))
    assert set(drawn) == set(range(10))
    assert min(drawn.values()) > 30
