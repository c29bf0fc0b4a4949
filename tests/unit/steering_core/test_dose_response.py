"""Whether an example's gap follows the coefficient, on numbers small enough to see."""

from __future__ import annotations

import numpy as np
import pytest

from steering_core.dose_response import gaps_of, monotone_examples, monotone_shares
from steering_core.stats.clusters import Cluster

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("gaps", "wanted"),
    [
        ([1.0, 2.0, 3.0], [1, 1, 0]),
        ([3.0, 2.0, 1.0], [1, 0, 1]),
        ([1.0, 3.0, 2.0], [1, 0, 0]),
        ([1.0, 1.0, 2.0], [1, 0, 0]),
        ([2.0, 2.0, 2.0], [1, 0, 0]),
        ([1.0, NAN, 3.0], [0, 0, 0]),
    ],
)
def test_only_a_step_in_the_same_direction_at_every_coefficient_counts(
    gaps: list[float], wanted: list[float]
) -> None:
    """Coefficients come in any order; examples before and behind show that none are mixed up."""
    coeffs = [-2.0, 0.0, 0.5]
    gaps_QN = np.array([[0.0, 1.0, 2.0], gaps, [0.0, 0.0, 0.0]]).T
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        found = monotone_examples([coeffs[q] for q in order], gaps_QN[order])
        assert found.tolist() == [[1, 1, 0], wanted, [1, 0, 0]]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("label", range(3))
def test_a_row_with_a_score_that_is_not_finite_has_no_gap(bad: float, label: int) -> None:
    scores = np.array([[-1.0, -3.0, 0.0], [-2.0, -1.5, 0.0]])
    assert gaps_of(scores).tolist() == [-2.0, 0.5]
    scores[0, label] = bad
    assert np.isnan(gaps_of(scores)).tolist() == [True, False]


def test_shares_count_finite_examples_and_pool_bias_types_by_them() -> None:
    gender = [Cluster("gender", "nurse"), Cluster("gender", "smith")]
    race = [Cluster("race", "a"), Cluster("race", "b")]
    sums = {
        "gender": (gender, np.array([[4.0, 2, 1], [6, 1, 2]])),
        "race": (race, np.array([[20.0, 10, 0], [10, 5, 0]])),
    }
    for name, share, against in (("gender", 3 / 10, 3 / 10), ("race", 1 / 2, 0.0)):
        found = monotone_shares({name: sums[name]}, 1)
        assert found["monotone"][0] == pytest.approx(share)
        assert found["monotone_against"][0] == pytest.approx(against)
        for value, low, high in found.values():
            assert 0 <= low <= value <= high <= 1
    found = monotone_shares(sums, 1)
    assert found["monotone"][0] == pytest.approx(18 / 40)
    assert found["monotone_against"][0] == pytest.approx(3 / 40)
    # No share of race fell: pseudo-counts say how far above 0 it may be all the same.
    assert monotone_shares({"race": sums["race"]}, 1)["monotone_against"][2] > 0.05


def test_layers_of_the_same_examples_are_no_more_examples() -> None:
    terms = [Cluster("race", name) for name in "ab"]
    once = np.array([[20.0, 2, 0], [20, 2, 0]])
    (_, low, high), (_, low_3, high_3) = (
        monotone_shares({"race": (terms, repeats * once)}, repeats)["monotone"]
        for repeats in (1, 3)
    )
    assert (low_3, high_3) == pytest.approx((low, high))


def test_of_no_finite_example_there_is_no_share() -> None:
    found = monotone_shares({"race": ([Cluster("race", "a")], np.zeros((1, 3)))}, 1)
    assert all(np.isnan(numbers).all() for numbers in found.values())
