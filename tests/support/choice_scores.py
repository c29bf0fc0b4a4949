"""Scored choices with made-up numbers, and the real data files where this machine has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from steering_core.datasets.base import ChoiceExample, Metric, ScoredChoices

_ROOT = Path(__file__).parents[2]
_PLACES = (_ROOT.parent / "shared" / "data", _ROOT.parents[1] / "shared" / "data")
SHARED_DATA = next((place for place in _PLACES if place.is_dir()), _PLACES[0])


def shared_file(name: str) -> Path:
    """A real data file; skips the test if it is not beside the checkout."""
    path = SHARED_DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the checkout in shared/data")
    return path


def scored_at_random(examples: Sequence[ChoiceExample], seed: int = 0) -> ScoredChoices:
    """The examples with random sums and numbers of tokens."""
    rng = np.random.default_rng(seed)
    most = max(len(example.candidates) for example in examples)
    sums = np.full((len(examples), most), np.nan)
    num_tokens = np.zeros((len(examples), most), np.int64)
    for n, example in enumerate(examples):
        size = len(example.candidates)
        sums[n, :size] = -rng.gamma(3.0, 2.0, size)
        num_tokens[n, :size] = rng.integers(1, 9, size)
    return ScoredChoices(examples, sums, num_tokens)


def scored_as(examples: Sequence[ChoiceExample], sums: Sequence[Sequence[float]]) -> ScoredChoices:
    """The examples with given sums, one token for each candidate."""
    most = max(len(row) for row in sums)
    padded = np.asarray([[*row, *[np.nan] * (most - len(row))] for row in sums], float)
    tokens = [[1] * len(e.candidates) + [0] * (most - len(e.candidates)) for e in examples]
    return ScoredChoices(examples, padded, np.asarray(tokens))


def value_of(metric: Metric, scored: ScoredChoices) -> float:
    """The metric of all rows whose terms are not NaN; NaN if there is none."""
    terms = metric.terms(scored)
    is_used = ~np.isnan(terms).any(axis=1)
    if not is_used.any():
        return float("nan")
    return float(metric.of_means(terms[is_used].mean(axis=0)))


def values_of(metrics: Sequence[Metric], scored: ScoredChoices) -> dict[str, float]:
    """The value of each metric by its key."""
    return {metric.key: value_of(metric, scored) for metric in metrics}
