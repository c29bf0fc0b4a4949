"""Means of pairs, pairs outside a fold, exchanged labels, and sign and norm of every vector."""

from __future__ import annotations

import numpy as np
import pytest

from steering_core.nulls import label_signs
from steering_core.pairs import PairMeans, Pairs, centered_states
from steersweep.errors import UserError
from tests.support.pairs import correlated_pairs, in_float64, paired


def test_means_are_computed_in_float64() -> None:
    pairs = correlated_pairs()
    anti, stereotype = in_float64(pairs)
    means = PairMeans.of(pairs, "it")
    np.testing.assert_allclose(means.anti, anti.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(means.stereotype, stereotype.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(means.difference, (anti - stereotype).mean(axis=0), rtol=1e-13)


def test_a_small_difference_of_large_states_is_not_lost() -> None:
    stereotype = np.full((5, 2), 1e9)
    anti = stereotype + np.array([1e-6, 0.0])
    means = PairMeans.of(paired(anti, stereotype), "it")
    np.testing.assert_array_equal(means.difference, (anti - stereotype)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_states_that_are_not_finite_are_refused_by_name(bad: float, side: int) -> None:
    states = [np.ones((9, 3), np.float32), np.zeros((9, 3), np.float32)]
    states[side][8, 1] = bad
    with pytest.raises(UserError, match=r"not finite, so the vector of layer 3 of m/s/b cannot"):
        PairMeans.of(paired(*states), "the vector of layer 3 of m/s/b")


def test_nothing_to_fit_from_is_refused_by_name() -> None:
    empty = np.zeros((0, 3))
    with pytest.raises(UserError, match=r"there is no example to fit layer 3 with"):
        PairMeans.of(paired(empty, empty), "layer 3")


def test_a_mean_difference_of_zero_is_refused_by_name() -> None:
    difference = np.array([[1.0, -2.0], [-1.0, 2.0]])
    with pytest.raises(UserError, match=r"mean difference is zero, so layer 3 has neither"):
        PairMeans.of(paired(difference, np.zeros((2, 2))), "layer 3")


@pytest.mark.parametrize("direction", [[3.0, 0.0, 4.0], [-3.0, 0.0, -4.0], [1e-9, 2e-9, 0.0]])
def test_a_direction_gets_norm_and_sign_of_the_mean_difference(direction: list[float]) -> None:
    difference = np.array([2.0, 1.0, -1.0])
    means = PairMeans.of(paired(difference[None], np.zeros((1, 3))), "it")
    found = means.push_along(np.array(direction))
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(difference))
    assert found @ difference >= 0
    assert np.abs(np.cross(found, direction)).max() < 1e-12


@pytest.mark.parametrize(
    ("fold", "wanted"), [(0, [1, 3, 4, 5]), (1, [0, 2, 3, 4]), (2, [0, 1, 2, 5])]
)
def test_pairs_outside_a_fold(fold: int, wanted: list[int]) -> None:
    values = np.arange(6.0)[:, None]
    outside = Pairs(values, -values, np.array([0, 1, 0, 2, 2, 1])).outside(fold)
    assert outside.anti.ravel().tolist() == wanted
    assert outside.stereotype.ravel().tolist() == [-w for w in wanted]
    assert len(outside) == 4
    assert fold not in outside.folds


def test_shuffled_labels_exchange_both_states_of_an_example() -> None:
    pairs = correlated_pairs(num_folds=3)
    signs = label_signs([f"{n}" for n in range(len(pairs))], "seed")
    assert set(signs) == {1.0, -1.0}
    shuffled = pairs.with_labels(signs)
    for n, sign in enumerate(signs):
        stereotype, anti = (pairs.stereotype[n], pairs.anti[n])[:: int(sign)]
        np.testing.assert_array_equal(shuffled.stereotype[n], stereotype)
        np.testing.assert_array_equal(shuffled.anti[n], anti)
    np.testing.assert_array_equal(shuffled.folds, pairs.folds)
    np.testing.assert_array_equal(shuffled.with_labels(signs).anti, pairs.anti)


def test_each_class_is_centered_on_its_own_point_in_float64() -> None:
    pairs = correlated_pairs(4, 3)
    anti, stereotype = in_float64(pairs)
    found = centered_states(pairs, np.full(3, 0.1), np.full(3, 7.0))
    np.testing.assert_array_equal(found, np.concatenate([anti - 0.1, stereotype - 7.0]))
