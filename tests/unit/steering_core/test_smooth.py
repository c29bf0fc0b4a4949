"""Functions of means: values, influences, coverage of their intervals with clusters."""

from __future__ import annotations

import numpy as np
import pytest

from steering_core.stats.clusters import Cluster, ClusterEstimate, means
from steering_core.stats.smooth import function_of_means, gradient, is_affine

NUM_RUNS = 1_000


def ratio(of: np.ndarray) -> np.ndarray:
    found: np.ndarray = of[..., 0] / of[..., 1]
    return found


def estimate(values: np.ndarray, cluster: np.ndarray) -> ClusterEstimate:
    clusters = [Cluster("", str(name)) for name in range(cluster.max() + 1)]
    return means(values[:, None, :], cluster, clusters)


def test_only_weighted_sums_are_affine() -> None:
    assert is_affine(lambda m: m[..., 0], 1)
    assert is_affine(lambda m: 100 * m[..., 0] - 3 * m[..., 1] + 7, 2)
    assert is_affine(lambda m: 0 * m[..., 0], 1)
    assert not is_affine(ratio, 2)
    assert not is_affine(lambda m: m[..., 0] ** 2, 1)
    assert not is_affine(lambda m: np.abs(m[..., 0] - 0.5), 1)


def test_derivatives_are_those_of_the_function() -> None:
    at = np.asarray([0.002, 0.7])
    found = gradient(ratio, at, at)
    assert found == pytest.approx([1 / 0.7, -0.002 / 0.49], rel=1e-8)
    linear = gradient(lambda m: 100 * m[..., 0] - m[..., 1], np.asarray([1e9, 1e-12]), at)
    assert linear == pytest.approx([100, -1], rel=1e-9, abs=1e-6)


def test_a_mean_is_what_it_was_and_its_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 6, 40)
    of = estimate(rng.normal(size=(40, 1)), cluster)
    found = function_of_means(of, lambda m: 3 * m[..., 0])
    assert found.value == pytest.approx(3 * of.value[:, 0])
    assert found.influence == pytest.approx(3 * of.influence[..., 0])
    assert found.total is not None and of.total is not None
    assert found.total == pytest.approx(3 * of.total[..., 0])
    assert found.total.sum() == pytest.approx(found.value[0])


def test_the_influence_is_what_leaving_a_little_of_a_cluster_out_does() -> None:
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(5), 8)
    values = rng.uniform(1, 2, (40, 2))
    found = function_of_means(estimate(values, cluster), ratio)
    for k in range(5):
        weights = np.where(cluster == k, 1 + 1e-6, 1.0)
        moved = ratio(np.average(values, axis=0, weights=weights))
        assert (moved - found.value[0]) / 1e-6 == pytest.approx(found.influence[k, 0], rel=1e-4)


def test_what_is_not_finite_is_undefined() -> None:
    values = np.column_stack([np.ones(10), np.zeros(10)])
    found = function_of_means(estimate(values, np.arange(10)), ratio)
    assert np.isnan(found.value).all()


@pytest.mark.parametrize("icc", [0.0, 0.3])
@pytest.mark.parametrize("name", ["mean", "ratio"])
def test_intervals_hold_the_truth_as_often_as_they_say(icc: float, name: str) -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(2, 10, 30)
    cluster = np.repeat(np.arange(30), sizes)
    held = 0
    for _ in range(NUM_RUNS):
        common, own = rng.normal(size=(30, 2)), rng.normal(size=(len(cluster), 2))
        values = [4.0, 5.0] + np.sqrt(icc) * common[cluster] + np.sqrt(1 - icc) * own
        of = estimate(values, cluster)
        function, truth = (ratio, 0.8) if name == "ratio" else (lambda m: m[..., 0], 4.0)
        (low,), (high,) = function_of_means(of, function).interval()
        held += low <= truth <= high
    assert 0.93 <= held / NUM_RUNS <= 0.97, held / NUM_RUNS


def test_clusters_that_are_merged_keep_the_estimate() -> None:
    rng = np.random.default_rng(2)
    of = function_of_means(
        estimate(rng.normal(size=(3000, 1)), np.arange(3000)), lambda m: m[..., 0]
    )
    found = of.merged(500)
    assert len(found.clusters) == 500
    assert found.value == of.value
    assert found.total is not None and found.share is not None
    assert found.total.sum() == pytest.approx(of.value[0])
    assert found.share.sum() == pytest.approx(1.0)
    assert found.standard_error == pytest.approx(of.standard_error, rel=0.15)
    assert of.merged(3000) is of
