"""Clustered estimates against formulas written out, brute force and made-up worlds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import t as students_t

from steering_core.stats import discrete
from steering_core.stats.clusters import (
    Cluster,
    ClusterEstimate,
    combine,
    intra_class_correlation,
    log_ratio,
    means,
    means_of_sums,
    means_over_clusters,
    side_by_side,
)
from steering_core.stats.flips import p_values, signs, simultaneous
from tests.statistics.coverage import coverage, false_findings

SIZES = (3, 5, 2, 6)


def made(sizes: tuple[int, ...] = SIZES, seed: int = 0, stratum: str = "gender", num: int = 2):
    """Examples [N, E] of clusters, whose means differ, and their estimate."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    values = (
        rng.normal(0.3, 1.0, (len(cluster), num)) + rng.normal(0, 0.5, (len(sizes), num))[cluster]
    )
    names = [Cluster(stratum, f"{stratum}-{k}") for k in range(len(sizes))]
    return values, cluster, means(values, cluster, names)


def test_a_mean_has_the_standard_error_of_its_clusters() -> None:
    values, cluster, estimate = made()
    num = len(SIZES)
    psi = np.stack([(values - values.mean(axis=0))[cluster == k].sum(axis=0) for k in range(num)])
    error = np.sqrt(num / (num - 1) * ((psi / len(values)) ** 2).sum(axis=0))
    np.testing.assert_allclose(estimate.value, values.mean(axis=0))
    np.testing.assert_allclose(estimate.standard_error, error)
    low, high = estimate.interval()
    half = students_t.ppf(0.975, num - 1) * error
    np.testing.assert_allclose([low, high], [estimate.value - half, estimate.value + half])
    assert estimate.total is not None
    np.testing.assert_allclose(estimate.total.sum(axis=0), estimate.value)


def test_a_mean_leaves_out_what_is_not_there_and_one_cluster_has_no_interval() -> None:
    values, cluster, _ = made()
    values[4, 0] = np.nan
    names = [Cluster("g", str(k)) for k in range(len(SIZES))]
    np.testing.assert_allclose(means(values, cluster, names).value, np.nanmean(values, axis=0))
    alone = means(values, np.zeros(len(values), int), [Cluster("g", "only")])
    assert np.isnan(alone.interval()).all()
    nothing = means(np.full((4, 1), np.nan), np.arange(4), names)
    assert np.isnan(nothing.value).all()


def test_pooled_variances_add_and_degrees_of_freedom_are_satterthwaites() -> None:
    (_, _, one), (_, _, other) = made(), made((4, 4, 9), 1, "race")
    both = combine([0.25, 0.75], [one, other])
    v = (0.25 * one.standard_error) ** 2, (0.75 * other.standard_error) ** 2
    np.testing.assert_allclose(both.value, 0.25 * one.value + 0.75 * other.value)
    np.testing.assert_allclose(both.standard_error, np.sqrt(v[0] + v[1]))
    df = (v[0] + v[1]) ** 2 / (v[0] ** 2 / 3 + v[1] ** 2 / 2)
    np.testing.assert_allclose(both.degrees_of_freedom, df)


def test_a_cluster_that_two_parts_have_is_one_cluster() -> None:
    """The difference of a thing and itself is 0 without any doubt; of two things, it is paired."""
    values, cluster, one = made()
    nothing = combine([1.0, -1.0], [one, one])
    np.testing.assert_array_equal(nothing.value, 0)
    np.testing.assert_array_equal(nothing.standard_error, 0)
    moved = means(values + 0.1 * values**2, cluster, one.clusters)
    direct = means(0.1 * values**2, cluster, one.clusters)
    paired = combine([1.0, -1.0], [moved, one])
    np.testing.assert_allclose(paired.standard_error, direct.standard_error)


def test_a_log_ratio_has_the_influence_that_a_small_weight_would_show() -> None:
    """Giving one cluster a little more weight changes the estimate by its influence."""
    rng = np.random.default_rng(3)
    values, cluster = rng.uniform(1, 2, (16, 2)), np.repeat(np.arange(4), SIZES)
    names = [Cluster("g", str(k)) for k in range(4)]
    both = means(values, cluster, names)
    found = log_ratio(both[0], both[1])
    step = 1e-6
    for k in range(4):
        weight = 1.0 + step * (cluster == k)
        ratio = np.log((weight @ values[:, 0]) / (weight @ values[:, 1]))
        assert found.influence[k] == pytest.approx((ratio - found.value) / step, rel=1e-3)
    zero = log_ratio(both[0], means(0 * values[:, 0], cluster, names))
    assert np.isnan(zero.value)


def test_intra_class_correlation_is_what_examples_of_a_cluster_share() -> None:
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(2000), 8)
    shared = rng.standard_normal((2000, 1))[cluster]
    own = rng.standard_normal((len(cluster), 1))
    found = intra_class_correlation(
        np.sqrt(0.2) * shared + np.sqrt(0.8) * own, cluster, ["g"] * 2000
    )
    assert found[0] == pytest.approx(0.2, abs=0.02)
    # Strata with means of their own are no clusters that differ.
    strata = ["a"] * 1000 + ["b"] * 1000
    apart = own + 5.0 * (cluster >= 1000)[:, None]
    assert intra_class_correlation(apart, cluster, strata)[0] == pytest.approx(0.0, abs=0.02)
    assert np.isnan(intra_class_correlation(own[:3], np.arange(3), ["g"] * 3)).all()


def test_a_share_of_nothing_still_has_a_width() -> None:
    nothing = means(
        np.zeros((40, 1)), np.repeat(np.arange(4), 10), [Cluster("g", c) for c in "abcd"]
    )
    low, high = discrete.interval(nothing, np.zeros(1), None, 40.0)
    assert low == 0.0
    assert 0.05 < high < 0.15
    net = discrete.interval(nothing, np.zeros(1), np.zeros(1), 40.0)
    assert net[0] == -net[1] < 0
    # Pooled, the larger of both standard errors counts.
    part = nothing.of_examples("g", discrete.example_sd(np.zeros(1), None, 40.0))
    assert combine([1.0], [part]).standard_error > 0


def studentized(values: np.ndarray, cluster: np.ndarray, flip: np.ndarray) -> np.ndarray:
    """The statistic of flipped data, from the rows themselves."""
    names = [Cluster("g", str(k)) for k in range(len(flip))]
    estimate = means(values * flip[cluster][:, None], cluster, names)
    return np.abs(estimate.value) / estimate.standard_error


def test_p_values_are_those_of_every_flip_of_the_rows() -> None:
    values, cluster, estimate = made((3, 5, 2, 6, 4), seed=2, num=3)
    observed = studentized(values, cluster, np.ones(5))
    all_flips = [np.asarray(flip) for flip in product((1.0, -1.0), repeat=5)]
    statistics = np.stack([studentized(values, cluster, flip) for flip in all_flips])
    wanted = (statistics >= observed * (1 - 1e-9)).mean(axis=0)
    np.testing.assert_allclose(p_values(estimate, signs(5)), wanted)
    found = simultaneous(estimate, signs(5))
    most = statistics.max(axis=1)
    np.testing.assert_allclose(found.p, (most[:, None] >= observed * (1 - 1e-9)).mean(axis=0))
    assert (found.p >= wanted).all()
    half = np.quantile(most, 0.95, method="inverted_cdf") * estimate.standard_error
    np.testing.assert_allclose(found.high - estimate.value, half)


def test_strata_are_flipped_cluster_by_cluster() -> None:
    """Flips of pooled estimates are those of the rows, with a mean for each stratum."""
    (a, in_a, one), (b, in_b, other) = made((3, 5, 2)), made((4, 6), 1, "race")
    weights = np.array([10, 10]) / 20
    both = combine(weights, [one, other])
    flips = signs(5)

    def statistic(flip: np.ndarray) -> np.ndarray:
        parts = [
            means(a * flip[:3][in_a][:, None], in_a, one.clusters),
            means(b * flip[3:][in_b][:, None], in_b, other.clusters),
        ]
        flipped = combine(weights, parts)
        return np.abs(flipped.value) / flipped.standard_error

    statistics = np.stack([statistic(flip) for flip in flips])
    wanted = (statistics >= statistics[0] * (1 - 1e-9)).mean(axis=0)
    np.testing.assert_allclose(p_values(both, flips), wanted)


def test_what_did_not_move_is_no_finding_and_what_always_moves_is_the_strongest() -> None:
    cluster, names = np.repeat(np.arange(6), 4), [Cluster("g", str(k)) for k in range(6)]
    values = np.stack([np.zeros(24), np.full(24, 0.3), np.full(24, np.nan)], axis=1)
    estimate = means(values, cluster, names)
    np.testing.assert_array_equal(p_values(estimate, signs(6)), [1.0, 2 / 64, np.nan])
    assert simultaneous(estimate, signs(6)).p[1] == 2 / 64


def test_three_clusters_can_never_be_significant() -> None:
    _, _, estimate = made((25, 24, 29), num=40)
    assert p_values(estimate, signs(3)).min() >= 0.25


def test_random_flips_agree_with_all_of_them() -> None:
    _, _, estimate = made(tuple(range(2, 16)), seed=5, num=8)
    exact = p_values(estimate, signs(14))
    rng = np.random.default_rng(1)
    drawn = np.vstack([np.ones(14), 2.0 * rng.integers(0, 2, (9999, 14)) - 1])
    np.testing.assert_allclose(p_values(estimate, drawn), exact, atol=0.015)
    assert len(signs(15)) == 10_000
    np.testing.assert_array_equal(signs(15)[0], 1.0)


def test_means_over_clusters_have_no_weights() -> None:
    values = np.array([[1.0], [2.0], [6.0], [np.nan]])
    estimate = means_over_clusters(values, [Cluster("g", c) for c in "abcd"])
    assert isinstance(estimate, ClusterEstimate)
    assert estimate.value == pytest.approx(3.0)


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """A short version of ``python -m tests.statistics.coverage``: 95 % but for chance and rows of
    few clusters; rare events may cover more."""
    for icc, name, covered in coverage(runs=600):
        if icc in (0.0, 0.1):
            for column, share in covered.items():
                assert share >= 0.90, (icc, name, column)
                if name == "log-likelihood change":
                    assert share <= 0.98, (icc, name, column)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 30])
def test_nothing_is_found_where_nothing_is(limit: int | None) -> None:
    assert false_findings(limit, 2, 0.05, runs=300, num_flips=399) <= 0.09


def _means_of_two_sets(num_estimates: int) -> list[ClusterEstimate]:
    rng = np.random.default_rng(0)
    return [
        means_of_sums(
            rng.normal(0.2, 1, (num, 1)),
            rng.integers(1, 4, (num, 1)).astype(float),
            [Cluster("", f"{name}{k}") for k in range(num)],
        )
        for name, num in [("a", 30), ("b", 40)] * (num_estimates // 2)
    ]


def test_clusters_are_put_together_alike_before_and_after() -> None:
    parts = _means_of_two_sets(6)
    late, early = side_by_side(parts).merged(25), side_by_side(parts, 25)
    assert early.clusters == late.clusters
    for name in ("value", "influence", "total", "share"):
        assert getattr(early, name) == pytest.approx(getattr(late, name))


def test_a_large_family_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    family = side_by_side(_means_of_two_sets(10))
    wanted = simultaneous(family, signs(70, 199))
    monkeypatch.setattr("steering_core.stats.flips._AT_ONCE", 3 * 200)
    found = simultaneous(family, signs(70, 199))
    assert np.array_equal(found.p, wanted.p)
    assert found.low == pytest.approx(wanted.low) and found.high == pytest.approx(wanted.high)
