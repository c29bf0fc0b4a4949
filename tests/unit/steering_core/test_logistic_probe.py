"""The logistic probe against Newton's method on whole matrices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from steering_core import logistic_probe
from steering_core.logistic_probe import fit_logistic
from steersweep.errors import UserError
from tests.support.direct_fits import (
    direct_logistic,
    newton,
    probe_gradient,
    standardised,
)
from tests.support.pairs import correlated_pairs, in_float64, paired


@pytest.mark.parametrize("num_pairs", [3, 60, 400])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_optimum_in_the_streams_own_coordinates(num_pairs: int, seed: int) -> None:
    """With 3 pairs in 5 dimensions the classes are separable: the penalty alone holds it."""
    pairs = correlated_pairs(num_pairs, seed=seed)
    anti, stereotype = in_float64(pairs)
    features, labels, scale = standardised(anti, stereotype)
    solution = newton(features, labels)

    found = fit_logistic(pairs, "it")

    np.testing.assert_allclose(found, direct_logistic(anti, stereotype), rtol=1e-3, atol=1e-5)
    # Back in the probe's coordinates and at its length, with its intercept: the gradient is zero.
    weights = found * scale
    weights *= np.linalg.norm(solution[:-1]) / np.linalg.norm(weights)
    slopes = probe_gradient(features, labels, np.append(weights, solution[-1]))
    assert np.abs(slopes).max() < 1e-4 * len(labels)


def test_a_feature_in_another_unit_gives_the_same_probe() -> None:
    """Features are standardised, so the penalty does not depend on their scale."""
    pairs = correlated_pairs()
    units = np.array([1e3, 1.0, 1e-3, 1.0, 1.0])
    scaled = paired(pairs.anti * units, pairs.stereotype * units)
    found, wanted = fit_logistic(scaled, "it") * units, fit_logistic(pairs, "it")
    cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
    assert cosine == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_feature_that_does_not_vary_has_no_weight(value: float) -> None:
    pairs = correlated_pairs()
    anti, stereotype = (np.insert(x, 2, value, axis=1) for x in in_float64(pairs))
    found = fit_logistic(paired(anti, stereotype), "it")
    assert abs(found[2]) < 1e-9
    np.testing.assert_allclose(np.delete(found, 2), fit_logistic(pairs, "it"), rtol=1e-4)


def test_a_probe_that_does_not_converge_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logistic_probe, "_MOST_STEPS", 1)
    with pytest.raises(
        UserError, match=r"probe of layer 3 did not converge: its gradient .* 1 steps"
    ):
        fit_logistic(correlated_pairs(), "layer 3")


def test_a_difference_lost_beside_the_spread_is_refused_by_name() -> None:
    pairs = correlated_pairs()
    states = pairs.stereotype.astype(np.float64)
    with pytest.raises(UserError, match=r"so small .* probe of layer 3 cannot be fitted"):
        fit_logistic(replace(pairs, anti=states + 1e-12, stereotype=states), "layer 3")
