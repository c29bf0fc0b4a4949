"""Every vector method against a direct computation on whole matrices, and what they share."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from steering_core.errors import InputError
from steering_core.logistic_probe import fit_logistic
from steering_core.pairs import Pairs, StateChunk
from steering_core.vector_fits import METHODS, fit_layer, fit_pca, fit_whitened
from steering_core.vectors import Method
from tests.support.direct_fits import direct_mean_difference, direct_pca, direct_whitened
from tests.support.pairs import ChunkedPairs, correlated_pairs

Fit = Callable[[Pairs, str], np.ndarray]

fits = pytest.mark.parametrize("fit", [fit_pca, fit_logistic, fit_whitened])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("width", [2, 5, 40])
def test_pca_is_the_leading_right_singular_vector_of_the_differences(width: int) -> None:
    pairs = correlated_pairs(width=width)
    anti, stereotype = pairs.in_float64()
    found = fit_pca(pairs, "it")
    np.testing.assert_allclose(found, direct_pca(anti, stereotype), rtol=1e-9, atol=1e-11)
    # Centred, it would be another direction.
    _, _, centred = np.linalg.svd(anti - stereotype - (anti - stereotype).mean(axis=0))
    assert abs(cosine(found, centred[0])) < 0.999


def test_pca_of_one_pair_is_its_difference() -> None:
    pairs = correlated_pairs(1)
    anti, stereotype = pairs.in_float64()
    np.testing.assert_allclose(fit_pca(pairs, "it"), (anti - stereotype)[0], rtol=1e-9)


@pytest.mark.parametrize(("num_pairs", "width"), [(60, 5), (8, 40), (2, 3)])
def test_whitened_is_the_shrunk_covariance_solved_for_the_mean_difference(
    num_pairs: int, width: int
) -> None:
    """With fewer examples than dimensions only the shrinkage makes it solvable."""
    pairs = correlated_pairs(num_pairs, width)
    anti, stereotype = pairs.in_float64()
    found = fit_whitened(pairs, "it")
    np.testing.assert_allclose(found, direct_whitened(anti, stereotype), rtol=1e-8, atol=1e-10)
    assert cosine(found, direct_mean_difference(anti, stereotype)) < 0.999


def test_whitened_undoes_a_feature_that_is_all_noise() -> None:
    rng = np.random.default_rng(0)
    noise = 100 * rng.normal(size=(500, 1))
    push = np.array([1.0, 1.0, 0.0])
    states = np.concatenate([noise, rng.normal(size=(500, 2))], axis=1)
    found = fit_whitened(ChunkedPairs(states + push, states), "it")
    assert abs(found[0]) < 0.05 * abs(found[1])


def test_states_that_do_not_vary_cannot_be_whitened() -> None:
    anti, stereotype = np.ones((4, 3), np.float32), np.zeros((4, 3), np.float32)
    with pytest.raises(InputError, match=r"states vary too little .* to fit layer 3 by whitening"):
        fit_whitened(ChunkedPairs(anti, stereotype), "layer 3")


@fits
@pytest.mark.parametrize("seed", range(4))
def test_sign_and_norm_are_those_of_the_mean_difference(fit: Fit, seed: int) -> None:
    pairs = correlated_pairs(seed=seed)
    anti, stereotype = pairs.in_float64()
    difference = direct_mean_difference(anti, stereotype)
    found = fit(pairs, "it")
    assert (found.shape, found.dtype) == (difference.shape, np.float64)
    assert found @ difference > 0
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(difference), rel=1e-12)
    # With the two candidates exchanged, it is the same push the other way.
    turned = fit(ChunkedPairs(pairs.stereotype, pairs.anti), "it")
    np.testing.assert_allclose(turned, -found, rtol=1e-3, atol=1e-5)


@fits
@pytest.mark.parametrize("size", [1, 13, 1000])
def test_chunks_do_not_matter(fit: Fit, size: int) -> None:
    """L-BFGS stops within its tolerance, the others are sums."""
    pairs = correlated_pairs()
    tolerance = 1e-5 if fit is fit_logistic else 1e-10
    again = fit(ChunkedPairs(pairs.anti, pairs.stereotype, size), "it")
    np.testing.assert_allclose(again, fit(pairs, "it"), rtol=tolerance, atol=tolerance)
    in_float64 = fit(ChunkedPairs(*pairs.in_float64()), "it")
    np.testing.assert_array_equal(in_float64, fit(pairs, "it"))


class MadeOnTheWay:
    """Chunks of 64 pairs that nobody holds."""

    def __init__(self, num_chunks: int) -> None:
        self.num_chunks = num_chunks

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for seed in range(self.num_chunks):
            pairs = correlated_pairs(64, 32, seed)
            yield pairs.anti, pairs.stereotype


@fits
def test_memory_does_not_grow_with_the_number_of_examples(fit: Fit) -> None:
    peaks = []
    for num_chunks in (3, 3, 48):  # the first one loads what is loaded late
        tracemalloc.start()
        fit(MadeOnTheWay(num_chunks), "it")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]


@fits
def test_callers_chunks_are_not_changed(fit: Fit) -> None:
    anti, stereotype = correlated_pairs().in_float64()
    before = anti.copy(), stereotype.copy()
    fit([(anti, stereotype)], "it")
    np.testing.assert_array_equal(anti, before[0])
    np.testing.assert_array_equal(stereotype, before[1])


class Folded:
    """Pairs in chunks, with folds 0, 1, 2, 0, 1, 2, ..."""

    def __init__(self, pairs: ChunkedPairs) -> None:
        self.pairs = pairs
        self.folds = np.arange(len(pairs.anti)) % 3

    def __iter__(self) -> Iterator[StateChunk]:
        low = 0
        for anti, stereotype in self.pairs:
            yield StateChunk(self.folds[low : low + len(anti)], anti, stereotype)
            low += len(anti)

    def outside(self, fold: int) -> ChunkedPairs:
        keep = self.folds != fold
        return ChunkedPairs(self.pairs.anti[keep], self.pairs.stereotype[keep], 1000)


FITTED: list[Method] = [name for name, method in METHODS.items() if method.needs_states]


@pytest.mark.parametrize("name", FITTED)
def test_the_vector_of_a_fold_is_fitted_without_it(name: Method) -> None:
    chunks, fit = Folded(correlated_pairs()), METHODS[name].fit
    assert fit is not None
    all_of_it, by_fold = fit_layer(name, chunks, 3, "layer 1 of m/s/b")
    assert [v.dtype for v in (all_of_it, *by_fold)] == [np.float32] * 4
    np.testing.assert_allclose(all_of_it, fit(chunks.pairs, "it"), rtol=1e-5)
    for fold, vector in enumerate(by_fold):
        np.testing.assert_allclose(vector, fit(chunks.outside(fold), "it"), rtol=1e-4, atol=1e-5)
        # What happens in the fold does not move its vector.
        moved = Folded(correlated_pairs())
        moved.pairs.anti[moved.folds == fold] += 5
        _, others = fit_layer(name, moved, 3, "layer 1 of m/s/b")
        np.testing.assert_array_equal(others[fold], vector)
        assert not np.array_equal(others[(fold + 1) % 3], by_fold[(fold + 1) % 3])


@pytest.mark.parametrize("name", FITTED)
def test_one_fold_is_no_fold_and_errors_name_layer_group_and_fold(name: Method) -> None:
    pairs = correlated_pairs(6)
    assert fit_layer(name, Folded(pairs), 1, "layer 1 of m/s/b")[1] == ()
    zero = Folded(ChunkedPairs(pairs.stereotype, pairs.stereotype))
    with pytest.raises(InputError, match=f"zero, so the {name} vector of layer 1 of m/s/b has"):
        fit_layer(name, zero, 3, "layer 1 of m/s/b")
    differs_in_fold_1 = np.where(zero.folds[:, None] == 1, pairs.anti, pairs.stereotype)
    with pytest.raises(InputError, match=r"of layer 1 of m/s/b without fold 1 has neither"):
        fit_layer(
            name, Folded(ChunkedPairs(differs_in_fold_1, pairs.stereotype)), 3, "layer 1 of m/s/b"
        )


def test_every_method_names_its_formula_and_its_source() -> None:
    for method in METHODS.values():
        assert method.formula
        assert any(c.isdigit() for c in method.source)
    assert set(FITTED) == {"pca", "logistic", "whitened"}
