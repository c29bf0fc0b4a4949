"""Intervals that cover what they should, and tests held against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, false_discovery_control

from steering_core.metrics import (
    estimates,
    example_sums,
    stereoset_estimates,
    term_counts,
    term_sums,
)
from steering_core.resampling import benjamini_hochberg, interval, mcnemar, resample_counts

NUM_SIMULATIONS = 1000
NUM_EXAMPLES, NUM_TERMS = 250, 80


def test_resamples_are_of_the_same_size_and_their_own_seeds() -> None:
    counts = resample_counts(30, "a", 500)
    assert counts.shape == (500, 30)
    assert (counts.sum(axis=1) == 30).all()
    np.testing.assert_array_equal(counts, resample_counts(30, "a", 500))
    assert (counts != resample_counts(30, "b", 500)).any()
    # Drawn with replacement, evenly: a unit is left out of a resample with (1 - 1/30)^30.
    assert (counts == 0).mean() == pytest.approx((29 / 30) ** 30, abs=0.02)
    assert counts.mean(axis=0) == pytest.approx(np.ones(30), abs=0.25)


def _coverage(truth: float, wholes: list[np.ndarray], drawn: list[np.ndarray]) -> float:
    low, high = interval(np.stack(drawn, axis=1))
    inside = (low <= truth) & (truth <= high)
    assert (low <= np.asarray(wholes)).all()
    assert (np.asarray(wholes) <= high).all()
    return float(inside.mean())


def _simulated_cells(seed: int) -> list[np.ndarray]:
    """Sums of examples [N, E] of simulated cells: gaps that move by 0.1, choices that move."""
    rng = np.random.default_rng(seed)
    cells = []
    for _ in range(NUM_SIMULATIONS):
        before = rng.normal(size=(NUM_EXAMPLES, 3))
        after = before + rng.normal([0.0, 0.1, 0.0], 0.5, size=(NUM_EXAMPLES, 3))
        moves = rng.choice(9, size=NUM_EXAMPLES, p=MOVES)
        cells.append(example_sums(before, after, moves // 3, moves % 3))
    return cells


MOVES = np.array([0.3, 0.12, 0.04, 0.06, 0.2, 0.03, 0.05, 0.1, 0.1])
"""Shares of s->s, s->a, s->u, a->s, ... of the population."""
TRUTH = {
    "s2a": 0.1,
    "s2u": 0.0,
    "flow_s2a": 0.12 - 0.06,
    "flow_u_a": 0.1,
    "anti_ratio": (0.12 + 0.2 + 0.1) / (0.06 + 0.2 + 0.03),
}


@pytest.mark.parametrize("name", TRUTH)
def test_intervals_over_examples_cover_the_truth_95_times_in_100(name: str) -> None:
    cells = _simulated_cells(seed=list(TRUTH).index(name))
    drawn = resample_counts(NUM_EXAMPLES, "coverage")
    covered = _coverage(
        TRUTH[name],
        [estimates(cell.sum(axis=0))[name] for cell in cells],
        [estimates(drawn @ cell)[name] for cell in cells],
    )
    assert covered == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("name", "truth"), [("ss", 60.0), ("lms", 75.0)])
def test_intervals_over_terms_cover_the_truth_95_times_in_100(name: str, truth: float) -> None:
    """Terms differ in size and in how stereotypical they are; examples of a term are alike."""
    rng = np.random.default_rng(7)
    drawn = resample_counts(NUM_TERMS, "terms")
    wholes, resampled = [], []
    for _ in range(NUM_SIMULATIONS):
        share = rng.beta(6, 4, size=NUM_TERMS)
        term = np.repeat(np.arange(NUM_TERMS), rng.integers(1, 6, size=NUM_TERMS))
        likes = rng.random(len(term)) < share[term]
        beats = rng.random((len(term), 2)) < 0.75
        # The unrelated candidate scores 0: the others are above it or below it, as drawn.
        sizes = np.where(beats, 1.0, -1.0) * rng.uniform(1, 2, size=(len(term), 2))
        sizes = np.sort(np.abs(sizes), axis=1) * np.sign(sizes)
        scores = np.column_stack([_ordered(sizes, likes), np.zeros(len(term))])
        sums = term_sums(term_counts(scores, term, NUM_TERMS))
        wholes.append(stereoset_estimates(sums.sum(axis=0))[name])
        resampled.append(stereoset_estimates(drawn @ sums)[name])
    assert _coverage(truth, wholes, resampled) == pytest.approx(0.95, abs=0.02)


def _ordered(pairs: np.ndarray, first_is_larger: np.ndarray) -> np.ndarray:
    """Each pair in the order that is wanted."""
    is_larger = pairs[:, 0] > pairs[:, 1]
    return np.where((is_larger == first_is_larger)[:, None], pairs, pairs[:, ::-1])


def test_an_interval_leaves_out_what_is_not_there() -> None:
    values = np.column_stack([np.r_[np.nan, np.arange(101.0)], np.full(102, np.nan)])
    low, high = interval(values)
    assert (low[0], high[0]) == pytest.approx((2.5, 97.5))
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(interval(values[:, 1:])).all()


def test_mcnemar_is_the_exact_binomial_test() -> None:
    there, back = np.array([0, 1, 5, 12, 30, 7]), np.array([0, 0, 5, 3, 11, 21])
    wanted = [
        1.0 if t + b == 0 else binomtest(int(t), int(t + b)).pvalue
        for t, b in zip(there, back, strict=True)
    ]
    np.testing.assert_allclose(mcnemar(there, back), wanted, rtol=1e-12)


def test_adjusted_values_are_those_of_scipy_and_no_test_stays_none() -> None:
    p = np.random.default_rng(0).uniform(size=40) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))
    with_gap = np.insert(p, 3, np.nan)
    adjusted = benjamini_hochberg(with_gap)
    assert np.isnan(adjusted[3])
    np.testing.assert_allclose(np.delete(adjusted, 3), false_discovery_control(p))
    assert benjamini_hochberg(np.array([])).tolist() == []
