"""Anisotropy from sums, against a direct computation over all states."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from steering_core.anisotropy import StateSums


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))


@pytest.fixture
def states() -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.standard_normal((40, 8)) + 0.7).astype(np.float32)


def test_numbers_are_those_of_all_states_at_once(states: np.ndarray) -> None:
    sums = StateSums.joined(StateSums.of(part) for part in np.array_split(states, 7))
    mean = states.astype(float).mean(axis=0)
    assert sums.num_states == 40
    assert sums.mean_norm == pytest.approx(np.linalg.norm(states, axis=1).mean(), rel=1e-6)
    assert sums.mean_cosine == pytest.approx(np.mean([cosine(h, mean) for h in states]), rel=1e-6)
    pairs = [cosine(one, two) for one, two in combinations(states, 2)]
    assert sums.mean_pairwise_cosine == pytest.approx(np.mean(pairs), rel=1e-6)


def test_one_direction_and_every_direction() -> None:
    one_way = StateSums.of(np.outer([1.0, 2.0, 9.0], [3.0, 4.0]))
    assert one_way.mean_cosine == pytest.approx(1.0)
    assert one_way.mean_pairwise_cosine == pytest.approx(1.0)
    every_way = StateSums.of(np.random.default_rng(0).standard_normal((4000, 500)))
    assert every_way.mean_pairwise_cosine == pytest.approx(0.0, abs=1e-3)


def test_what_has_no_direction_is_not_a_number() -> None:
    assert np.isnan(StateSums.of(np.array([[1.0, 0.0], [-1.0, 0.0]])).mean_cosine)
    alone = StateSums.of(np.ones((1, 3)))
    assert alone.mean_cosine == pytest.approx(1.0)
    assert np.isnan(alone.mean_pairwise_cosine)


def test_a_state_of_zeros_has_no_direction() -> None:
    sums = StateSums.of(np.array([[0.0, 0.0], [2.0, 0.0]]))
    assert sums.mean_cosine == pytest.approx(0.5)
    assert sums.mean_norm == 1.0
