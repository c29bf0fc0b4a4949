"""Vectors that mean nothing: their norms, that they depend on their seed alone, and on no label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steering_core.nulls import label_signs, random_vectors, with_norms_of
from steering_core.vectors import SteeringVectors, fit_mean_difference, sums_by_fold

WIDTH = 64


def _vectors(seed: int) -> SteeringVectors:
    rng = np.random.default_rng(seed)

    def drawn() -> np.ndarray:
        return (rng.normal(size=WIDTH) * rng.uniform(1, 9)).astype(np.float32)

    return SteeringVectors({2: drawn(), 5: drawn()}, {2: (drawn(), drawn()), 5: (drawn(), drawn())})


def _all(vectors: SteeringVectors) -> list[np.ndarray]:
    return [*vectors.whole.values(), *(v for folds in vectors.folds.values() for v in folds)]


def _assert_norms(found: SteeringVectors, like: SteeringVectors) -> None:
    for ours, theirs in zip(_all(found), _all(like), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours), np.linalg.norm(theirs), rtol=1e-5)


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(_unit(a) @ _unit(b))


def test_random_vectors_have_the_norms_and_directions_of_their_own() -> None:
    like = _vectors(0)
    found = random_vectors(like, "m/s/race")
    _assert_norms(found, like)
    for layer, folds in found.folds.items():  # one direction for all folds
        for fold in folds:
            assert _cosine(fold, found.whole[layer]) > 1 - 1e-6
    units = np.stack([_unit(v) for v in (*found.whole.values(), *_all(like))])
    cosines = units @ units.T - np.eye(len(units))
    assert np.abs(cosines).max() < 0.5
    for ours, again in zip(_all(found), _all(random_vectors(like, "m/s/race")), strict=True):
        np.testing.assert_array_equal(ours, again)
    assert (found.whole[2] != random_vectors(like, "m/s/gender").whole[2]).all()


def test_an_output_of_an_earlier_version_has_another_direction_for_each_fold() -> None:
    like = _vectors(0)
    found = random_vectors(like, "m/s/race", one_direction=False)
    _assert_norms(found, like)
    units = np.stack([_unit(v) for v in _all(found)])
    assert np.abs(units @ units.T - np.eye(len(units))).max() < 0.5


def test_a_layer_that_is_added_leaves_the_others_as_they_were() -> None:
    like = _vectors(0)
    alone = SteeringVectors({5: like.whole[5]}, {5: like.folds[5]})
    whole, added = random_vectors(like, "s"), random_vectors(alone, "s")
    np.testing.assert_array_equal(whole.whole[5], added.whole[5])


def test_shuffled_labels_take_away_what_labels_share() -> None:
    """Differences are 1 along the first axis and noise: with labels shuffled, noise is left."""
    ids = [f"example {n}" for n in range(400)]
    signs = label_signs(ids)
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.15
    np.testing.assert_array_equal(signs[::-1], label_signs(ids[::-1]))
    differences = np.random.default_rng(0).normal(size=(1, len(ids), WIDTH))
    differences[0, :, 0] += 1.0
    states = np.zeros((2, *differences.shape), np.float32)
    (entry,) = sums_by_fold([3], differences, states, [0] * len(ids), signs)
    assert entry.shuffled is not None
    np.testing.assert_allclose(entry.shuffled, (signs[:, None] * differences[0]).sum(axis=0))
    fitted = fit_mean_difference([entry], 1)
    shuffled = SteeringVectors({3: entry.shuffled / len(ids)}, {})
    found = with_norms_of(shuffled, fitted)
    _assert_norms(found, fitted)
    cosine = found.whole[3] @ fitted.whole[3] / np.linalg.norm(fitted.whole[3]) ** 2
    assert abs(cosine) < 0.4


def test_nulls_steer_the_same_stream_in_the_same_unit() -> None:
    like = replace(_vectors(0), stream_norms={2: 3.0, 5: 4.0}, fold_sizes=(7, 9), unit="stream")
    for null in (random_vectors(like, "s"), with_norms_of(_vectors(1), like)):
        assert (null.stream_norms, null.fold_sizes) == (like.stream_norms, like.fold_sizes)
        assert null.unit == "stream"
        assert null.dose(5, -0.2) == 0.2
        assert null.digest(2) != like.digest(2)


def test_a_vector_of_zero_stays_zero() -> None:
    zero = SteeringVectors({1: np.zeros(WIDTH)}, {})
    assert not with_norms_of(zero, _one()).whole[1].any()
    assert not random_vectors(zero, "s").whole[1].any()


def _one() -> SteeringVectors:
    return SteeringVectors({1: np.ones(WIDTH, np.float32)}, {})
