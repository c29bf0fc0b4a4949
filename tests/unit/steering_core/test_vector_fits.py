"""Every vector method against a computation by the textbook, and what they share."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from steering_core.logistic_probe import fit_logistic
from steering_core.pairs import Pairs
from steering_core.vector_fits import METHODS, fit_layer, fit_pca, fit_whitened
from steersweep.errors import UserError
from tests.support.direct_fits import direct_mean_difference, direct_pca, direct_whitened
from tests.support.pairs import correlated_pairs, in_float64, paired

Fit = Callable[[Pairs, str], np.ndarray]

fits = pytest.mark.parametrize("fit", [fit_pca, fit_logistic, fit_whitened])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("width", [2, 5, 40, 100])
def test_pca_is_the_leading_right_singular_vector_of_the_differences(width: int) -> None:
    pairs = correlated_pairs(width=width)
    anti, stereotype = in_float64(pairs)
    found = fit_pca(pairs, "it")
    np.testing.assert_allclose(found, direct_pca(anti, stereotype), rtol=1e-9, atol=1e-11)
    # Centred, it would be another direction.
    _, _, centred = np.linalg.svd(anti - stereotype - (anti - stereotype).mean(axis=0))
    assert abs(cosine(found, centred[0])) < 0.999


def test_pca_of_one_pair_is_its_difference() -> None:
    pairs = correlated_pairs(1)
    anti, stereotype = in_float64(pairs)
    np.testing.assert_allclose(fit_pca(pairs, "it"), (anti - stereotype)[0], rtol=1e-9)


@pytest.mark.parametrize(("num_pairs", "width"), [(60, 5), (20, 40), (8, 40), (2, 3), (50, 300)])
def test_whitened_is_the_shrunk_covariance_solved_for_the_mean_difference(
    num_pairs: int, width: int
) -> None:
    """With fewer examples than dimensions only the shrinkage makes it solvable."""
    pairs = correlated_pairs(num_pairs, width)
    anti, stereotype = in_float64(pairs)
    found = fit_whitened(pairs, "it")
    np.testing.assert_allclose(found, direct_whitened(anti, stereotype), rtol=1e-8, atol=1e-10)
    assert cosine(found, direct_mean_difference(anti, stereotype)) < 0.999


def test_whitened_undoes_a_feature_that_is_all_noise() -> None:
    rng = np.random.default_rng(0)
    noise = 100 * rng.normal(size=(500, 1))
    push = np.array([1.0, 1.0, 0.0])
    states = np.concatenate([noise, rng.normal(size=(500, 2))], axis=1)
    found = fit_whitened(paired(states + push, states), "it")
    assert abs(found[0]) < 0.05 * abs(found[1])


@pytest.mark.parametrize("width", [3, 30])
@pytest.mark.parametrize("variation", [0.0, 1.0])
def test_states_that_vary_too_little_cannot_be_whitened(width: int, variation: float) -> None:
    """Not at all, or along one line by the same amount, so that nothing is shrunk."""
    stereotype = variation * np.outer([1.0, -1.0, 1.0, -1.0], np.arange(1.0, width + 1))
    with pytest.raises(UserError, match=r"states vary too little .* to fit layer 3 by whitening"):
        fit_whitened(paired(stereotype + 2, stereotype), "layer 3")


@fits
@pytest.mark.parametrize("seed", range(4))
def test_sign_and_norm_are_those_of_the_mean_difference(fit: Fit, seed: int) -> None:
    pairs = correlated_pairs(seed=seed)
    anti, stereotype = in_float64(pairs)
    difference = direct_mean_difference(anti, stereotype)
    found = fit(pairs, "it")
    assert (found.shape, found.dtype) == (difference.shape, np.float64)
    assert found @ difference > 0
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(difference), rel=1e-12)
    # With the two candidates exchanged, it is the same push the other way.
    turned = fit(paired(pairs.stereotype, pairs.anti), "it")
    np.testing.assert_allclose(turned, -found, rtol=1e-3, atol=1e-5)


@fits
def test_states_in_float64_give_the_same_vector(fit: Fit) -> None:
    pairs = correlated_pairs()
    np.testing.assert_array_equal(fit(paired(*in_float64(pairs)), "it"), fit(pairs, "it"))


@fits
@pytest.mark.parametrize(("num_pairs", "width"), [(100, 2000), (2000, 100)])
def test_a_fit_holds_few_copies_of_the_states(fit: Fit, num_pairs: int, width: int) -> None:
    """``jobs.scoring.fit_task`` counts on it. No [D, D] if D is large, no [N, N] if N is."""
    pairs = correlated_pairs(num_pairs, width)
    fit(correlated_pairs(), "it")  # loads what is loaded late
    tracemalloc.start()
    fit(pairs, "it")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * (pairs.anti.nbytes + pairs.stereotype.nbytes)


@fits
def test_callers_arrays_are_not_changed(fit: Fit) -> None:
    anti, stereotype = in_float64(correlated_pairs())
    before = anti.copy(), stereotype.copy()
    fit(paired(anti, stereotype), "it")
    np.testing.assert_array_equal(anti, before[0])
    np.testing.assert_array_equal(stereotype, before[1])


FITTED: list[str] = [name for name, method in METHODS.items() if method.needs_states]


@pytest.mark.parametrize("name", FITTED)
def test_the_vector_of_a_fold_is_fitted_without_it(name: str) -> None:
    pairs, fit = correlated_pairs(num_folds=3), METHODS[name].fit
    assert fit is not None
    whole, by_fold = fit_layer(name, pairs, 3, "layer 1 of m/s/b")
    assert [v.dtype for v in (whole, *by_fold)] == [np.float32] * 4
    np.testing.assert_allclose(whole, fit(pairs, "it"), rtol=1e-5)
    for fold, vector in enumerate(by_fold):
        np.testing.assert_allclose(vector, fit(pairs.outside(fold), "it"), rtol=1e-4, atol=1e-5)
        # What happens in the fold does not move its vector.
        moved = correlated_pairs(num_folds=3)
        moved.anti[moved.folds == fold] += 5
        _, others = fit_layer(name, moved, 3, "layer 1 of m/s/b")
        np.testing.assert_array_equal(others[fold], vector)
        assert not np.array_equal(others[(fold + 1) % 3], by_fold[(fold + 1) % 3])


@pytest.mark.parametrize("name", FITTED)
def test_one_fold_is_no_fold_and_errors_name_layer_group_and_fold(name: str) -> None:
    pairs = correlated_pairs(6)
    assert fit_layer(name, pairs, 1, "layer 1 of m/s/b")[1] == ()
    zero = paired(pairs.stereotype, pairs.stereotype, 3)
    with pytest.raises(UserError, match=f"zero, so the {name} vector of layer 1 of m/s/b has"):
        fit_layer(name, zero, 3, "layer 1 of m/s/b")
    differs_in_fold_1 = np.where(zero.folds[:, None] == 1, pairs.anti, pairs.stereotype)
    with pytest.raises(UserError, match=r"of layer 1 of m/s/b without fold 1 has neither"):
        fit_layer(name, paired(differs_in_fold_1, pairs.stereotype, 3), 3, "layer 1 of m/s/b")


def test_every_method_names_its_formula_and_its_source() -> None:
    for method in METHODS.values():
        assert method.formula
        assert any(c.isdigit() for c in method.source)
    assert set(FITTED) == {"pca", "logistic", "whitened"}
