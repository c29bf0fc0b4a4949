"""The gap that a contrast is meant to move, as a metric."""

from __future__ import annotations

import numpy as np

from jobs.page.words import enumerated
from steering_core.datasets.base import Contrast, Metric, ScoredChoices

GAP = "gap"
"""Key of the metric that steering is meant to raise."""


def gap_metric(contrast: Contrast) -> Metric:
    """Mean score of an example's positive candidates minus that of its negative ones.

    An example without either has no gap, and one with a score that is not finite has none either.
    """

    def terms(scored: ScoredChoices) -> np.ndarray:
        return gap_of_examples(scored, contrast)[:, None]

    positive, negative = (enumerated(labels) for labels in (contrast.positive, contrast.negative))
    return Metric(
        GAP,
        f"gap between {positive} and {negative}",
        f"mean over examples of the mean score of candidates with label {positive} minus the mean "
        f"score of those with label {negative}; a score is the mean log-probability of a token",
        "steersweep",
        terms,
        unit="nats",
    )


def gap_of_examples(scored: ScoredChoices, contrast: Contrast) -> np.ndarray:
    """[N] float64 nats per token; NaN where an example has no gap."""
    positive, negative = (_mean_score(scored, of) for of in (contrast.positive, contrast.negative))
    gap: np.ndarray = positive - negative
    return gap


def _mean_score(scored: ScoredChoices, labels: tuple[str, ...]) -> np.ndarray:
    counts = scored.has_label(*labels)
    num = counts.sum(axis=1)
    total = np.where(counts, scored.scores, 0.0).sum(axis=1)
    mean: np.ndarray = np.divide(total, num, where=num > 0, out=np.full(len(num), np.nan))
    return mean
