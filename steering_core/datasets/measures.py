"""Metrics that several data sets share, and the parts that metrics are made of.

A row whose candidates do not all have a finite sum has no choice: its terms are NaN, which leaves
it out of every mean.

Shapes: N examples, C candidates, T terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steering_core.datasets.base import CORRECT, Metric, ScoredChoices

HARNESS = "Gao et al. 2024, lm-evaluation-harness"


def choices(scored: ScoredChoices, values: np.ndarray | None = None) -> np.ndarray:
    """[N] int64, the candidate with the largest value; the first of equal ones, -1 if undefined.

    Args:
        values: [N, C] what is compared, by default the sums.
    """
    compared = scored.sums if values is None else values
    is_there = scored.is_there
    is_defined = (np.isfinite(compared) | ~is_there).all(axis=1) & is_there.any(axis=1)
    best = np.where(is_there & is_defined[:, None], compared, -np.inf).argmax(axis=1)
    return np.where(is_defined, best, -1)


def sums_per_char(scored: ScoredChoices) -> np.ndarray:
    """[N, C] float64, sums divided by the characters of each text without its leading space."""
    per_char: np.ndarray = scored.sums / np.maximum(scored.num_chars, 1)
    return per_char


def chose(scored: ScoredChoices, choice: np.ndarray, *labels: str) -> np.ndarray:
    """[N] float64: 1 if the chosen candidate has one of the labels, otherwise 0; NaN if undefined.

    Args:
        choice: [N] as ``choices`` gives it.
    """
    has_label = scored.has_label(*labels)
    hit = has_label[np.arange(len(choice)), np.maximum(choice, 0)]
    return np.where(choice < 0, np.nan, hit.astype(float))


def chose_answer(scored: ScoredChoices, key: str) -> np.ndarray:
    """[N] float64: 1 if the chosen candidate's label is the value of a key of the group; else 0."""
    choice = choices(scored)
    hit = [
        c >= 0 and e.labels[c] == e.group_value(key)
        for e, c in zip(scored.examples, choice, strict=True)
    ]
    return np.where(choice < 0, np.nan, np.asarray(hit, float))


def sum_of_label(scored: ScoredChoices, label: str) -> np.ndarray:
    """[N] float64, the largest sum among the candidates with a label; NaN if there is none."""
    sums = np.where(scored.has_label(label), scored.sums, -np.inf)
    best = sums.max(axis=1, initial=-np.inf)
    is_unknown = (scored.has_label(label) & np.isnan(scored.sums)).any(axis=1)
    return np.where(is_unknown | np.isinf(best), np.nan, best)


def column(values: np.ndarray) -> np.ndarray:
    """[N, 1]: the only term of a metric."""
    return values[:, None]


def together(*terms: np.ndarray) -> np.ndarray:
    """[N, T] float64, terms of one metric; a row with a NaN in one of them is NaN in all."""
    stacked = np.stack(terms, axis=1).astype(float)
    stacked[np.isnan(stacked).any(axis=1)] = np.nan
    return stacked


def only(values: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """[N] values with NaN, which leaves a row out, where ``is_used`` is false."""
    return np.where(is_used, values, np.nan)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient; NaN if the divisor is 0."""
    quotient: np.ndarray = np.divide(
        above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) != 0
    )
    return quotient


def accuracy(name: str, label: str, *, per_char: bool) -> Metric:
    """The share of examples whose chosen candidate is correct, of those that have a correct one."""
    what = "sum per character of its text" if per_char else "sum of log-probabilities"

    def terms(scored: ScoredChoices) -> np.ndarray:
        choice = choices(scored, sums_per_char(scored) if per_char else None)
        has_correct = np.asarray(scored.has_label(CORRECT).any(axis=1))
        return column(only(chose(scored, choice, CORRECT), has_correct))

    return Metric(
        key=name,
        label=label,
        formula=f"share of examples whose candidate with the largest {what} is correct",
        source=HARNESS,
        terms=terms,
        better="higher",
    )


def label_share(label: str) -> Metric:
    """The share of examples whose chosen candidate has a label."""
    return Metric(
        key=f"share_{label}",
        label=f"share that chose {label}",
        formula=f"share of examples whose candidate with the largest sum is labeled {label}",
        source="steersweep",
        terms=lambda scored: column(chose(scored, choices(scored), label)),
        restates=True,  # the share that chose "correct" is the accuracy
    )


def label_shares(labels: Sequence[str]) -> list[Metric]:
    """The share of each label, in the order in which labels first occur."""
    return [label_share(label) for label in dict.fromkeys(labels)]


def accuracies(labels: Sequence[str]) -> list[Metric]:
    """``acc`` and ``acc_norm`` if a label is ``correct``; otherwise nothing."""
    if CORRECT not in labels:
        return []
    return [
        accuracy("acc", "accuracy", per_char=False),
        accuracy("acc_norm", "accuracy per character", per_char=True),
    ]
