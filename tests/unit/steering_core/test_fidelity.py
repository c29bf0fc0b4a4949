"""Standardized changes, fidelity and its intervals, against direct computation and known truth."""

from __future__ import annotations

import numpy as np
import pytest

from steering_core.stats.clusters import Cluster, ClusterEstimate, means_of_sums, sums_by_cluster
from steering_core.stats.fidelity import Changes, fidelity, pareto_front
from steering_core.stats.standardized import Moments, standard_deviation, standardized
from tests.statistics.side_effects import WORLDS, fidelity_coverage

NUM, CLUSTER = 60, np.arange(60) % 12
NAMES = tuple(Cluster("", str(k)) for k in range(12))


def deviation(terms: np.ndarray, of_means=lambda m: m[..., 0]) -> ClusterEstimate:  # type: ignore[no-untyped-def]
    return standard_deviation(Moments.of(terms, CLUSTER, 12), of_means, NAMES)


def test_the_deviation_of_a_mean_is_that_of_its_examples() -> None:
    values = np.random.default_rng(0).normal(1_000, 3, (NUM, 1))
    values[7] = np.nan
    assert deviation(values).value[0] == pytest.approx(np.nanstd(values, ddof=1))


def test_the_deviation_of_a_ratio_is_that_of_its_influences() -> None:
    x = np.random.default_rng(0).normal((3, 2), 1, (NUM, 2))
    mean = x.mean(axis=0)
    influences = (x[:, 0] - mean[0] / mean[1] * x[:, 1]) / mean[1]
    found = deviation(x, lambda m: m[..., 0] / m[..., 1])
    assert found.value[0] == pytest.approx(np.std(influences, ddof=1), rel=1e-6)


def test_what_does_not_vary_has_no_deviation() -> None:
    for constant in (0.1, 123.456):
        assert np.isnan(deviation(np.full((NUM, 1), constant)).value[0])


def test_influences_are_what_another_cluster_more_would_change() -> None:
    """A cluster that counts a little more moves the quotient by its influence times as much."""
    rng = np.random.default_rng(0)
    before, change = rng.normal(0, 2, (NUM, 1)), rng.normal(1, 0.5, (NUM, 1))
    mean = means_of_sums(sums_by_cluster(change, CLUSTER, 12), np.full((12, 1), 5.0), NAMES)
    found = standardized(mean, deviation(before))
    assert found.value[0] == pytest.approx(change.mean() / np.std(before, ddof=1))
    for k in (0, 5):
        weight = 1 + 1e-5 * (k == CLUSTER)
        center = np.average(before[:, 0], weights=weight)
        spread = np.sqrt(np.average((before[:, 0] - center) ** 2, weights=weight))
        moved = np.average(change[:, 0], weights=weight) / spread
        still = change.mean() / np.std(before)
        assert found.influence[k, 0] == pytest.approx((moved - still) / 1e-5, rel=0.02)


def changes(values: list[float], variances: list[float]) -> Changes:
    return Changes(np.asarray(values), np.diag(variances), np.ones(len(values)))


def test_each_set_counts_once_and_noise_is_subtracted() -> None:
    moved = changes([0.6, 0.3, 0.1, 0.4], [0.01, 0.01, 0.02, 0.04])
    found = fidelity(moved, ["a", "a", "b"], -1.0)
    square = ((0.3**2 - 0.01) + (0.1**2 - 0.02)) / 2 + (0.4**2 - 0.04)
    assert found.unintended.value == pytest.approx(np.sqrt(square))
    assert found.intended.value == -0.6
    assert found.fidelity.value == pytest.approx(-0.6 / (0.6 + np.sqrt(square)))
    assert found.intended.low == pytest.approx(-0.6 - 1.96 * 0.1, abs=0.02)
    assert found.num_measures == 3


def test_less_than_noise_is_nothing_and_undefined_changes_are_left_out() -> None:
    found = fidelity(changes([0.5, 0.1, np.nan], [0.01, 0.04, np.nan]), ["a", "a"], 1.0)
    assert (found.unintended.value, found.fidelity.value) == (0.0, 1.0)
    assert found.num_measures == 1
    alone = fidelity(changes([0.5], [0.01]), [], 1.0)
    assert np.isnan(alone.unintended.value) and np.isnan(alone.fidelity.value)
    assert alone.intended.low < 0.5 < alone.intended.high
    unsure = fidelity(changes([0.5, 0.3], [np.nan, 0.01]), ["a"], 1.0)
    assert unsure.fidelity.value > 0 and np.isnan(unsure.fidelity.low)
    assert unsure.unintended.low < 0.3 < unsure.unintended.high
    still = fidelity(changes([0.0, 0.0], [0.0, 0.0]), ["a"], 1.0)
    assert (still.fidelity.value, still.fidelity.low, still.fidelity.high) == (0, 0, 0)


def test_the_front_has_what_nothing_beats() -> None:
    intended = np.asarray([1.0, 2.0, 1.0, 0.5, -1.0, np.nan, 2.0])
    unintended = np.asarray([0.1, 0.5, 0.2, 0.1, 0.0, 0.0, np.nan])
    assert list(np.flatnonzero(pareto_front(intended, unintended))) == [0, 1]


@pytest.mark.parametrize(
    "name", ["nothing else moves, ten sets", "the target moves by 2", "ten clusters each"]
)
def test_intervals_hold_the_truth_and_noise_is_no_side_effect(name: str) -> None:
    """A short version of ``python -m tests.statistics.side_effects``."""
    found = fidelity_coverage(WORLDS[name], runs=150)
    assert min(found.intended, found.unintended, found.fidelity) >= 0.89, found
    assert found.bias <= max(0.3 * found.naive_bias, 0.02), found
