"""Means over streams of pairs, pairs outside a fold, and the sign and norm of every vector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from steering_core.errors import InputError
from steering_core.pairs import OutsideFold, PairMeans, StateChunk
from tests.support.pairs import ChunkedPairs, correlated_pairs


def test_means_are_those_of_the_whole_arrays_in_float64() -> None:
    pairs = correlated_pairs()
    anti, stereotype = pairs.in_float64()
    means = PairMeans.of(pairs, "it")
    np.testing.assert_allclose(means.anti, anti.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(means.stereotype, stereotype.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(means.difference, (anti - stereotype).mean(axis=0), rtol=1e-13)
    assert means.num_pairs == len(anti)


def test_a_small_difference_of_large_states_is_not_lost() -> None:
    stereotype = np.full((5, 2), 1e9)
    anti = stereotype + np.array([1e-6, 0.0])
    means = PairMeans.of(ChunkedPairs(anti, stereotype), "it")
    np.testing.assert_array_equal(means.difference, (anti - stereotype)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_states_that_are_not_finite_are_refused_by_name(bad: float, side: int) -> None:
    states = [np.ones((9, 3), np.float32), np.zeros((9, 3), np.float32)]
    states[side][8, 1] = bad
    with pytest.raises(InputError, match=r"not finite, so the vector of layer 3 of m/s/b cannot"):
        PairMeans.of(ChunkedPairs(*states), "the vector of layer 3 of m/s/b")


def test_nothing_to_fit_from_is_refused_by_name() -> None:
    empty = np.zeros((0, 3))
    with pytest.raises(InputError, match=r"there is no example to fit layer 3 with"):
        PairMeans.of(ChunkedPairs(empty, empty), "layer 3")
    with pytest.raises(InputError, match=r"there is no example to fit layer 3 with"):
        PairMeans.of([(empty, empty)], "layer 3")


def test_a_mean_difference_of_zero_is_refused_by_name() -> None:
    difference = np.array([[1.0, -2.0], [-1.0, 2.0]])
    with pytest.raises(InputError, match=r"mean difference is zero, so layer 3 has neither"):
        PairMeans.of(ChunkedPairs(difference, np.zeros((2, 2)), size=1), "layer 3")


def test_a_stream_that_can_be_gone_over_once_only_is_refused() -> None:
    with pytest.raises(ValueError, match="must start anew"):
        PairMeans.of(iter(correlated_pairs()), "it")


@pytest.mark.parametrize("direction", [[3.0, 0.0, 4.0], [-3.0, 0.0, -4.0], [1e-9, 2e-9, 0.0]])
def test_a_direction_gets_norm_and_sign_of_the_mean_difference(direction: list[float]) -> None:
    difference = np.array([2.0, 1.0, -1.0])
    means = PairMeans.of([(difference[None], np.zeros((1, 3)))], "it")
    found = means.push_along(np.array(direction))
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(difference))
    assert found @ difference >= 0
    assert np.abs(np.cross(found, direction)).max() < 1e-12


class Chunks:
    """Six examples in two chunks, fold 2 in the second alone; the value names the example."""

    def __iter__(self) -> Iterator[StateChunk]:
        values = np.arange(6.0)[:, None]
        yield StateChunk(np.array([0, 1, 0]), values[:3], -values[:3])
        yield StateChunk(np.array([2, 2, 1]), values[3:], -values[3:])


@pytest.mark.parametrize(
    ("fold", "wanted"),
    [(None, [0, 1, 2, 3, 4, 5]), (0, [1, 3, 4, 5]), (1, [0, 2, 3, 4]), (2, [0, 1, 2, 5])],
)
def test_pairs_outside_a_fold(fold: int | None, wanted: list[int]) -> None:
    pairs = OutsideFold(Chunks(), fold)
    for _ in range(2):
        chunks = list(pairs)
        assert np.concatenate([anti for anti, _ in chunks]).ravel().tolist() == wanted
        assert np.concatenate([s for _, s in chunks]).ravel().tolist() == [-w for w in wanted]
