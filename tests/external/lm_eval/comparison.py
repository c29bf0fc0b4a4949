"""Whether two programs agree on the log-likelihoods of the same tokens, and on what follows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOLERANCE = 1e-4
"""Nats, for the log-likelihood of one candidate: the sum over its tokens."""
METRIC_TOLERANCES = {"likelihood_diff": 2 * TOLERANCE}
"""For one row's value of a metric; the others are 0 or 1 and must be equal."""


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A candidate as a program scored it.

    Attributes:
        text: prompt and candidate.
        context_ids: tokens before the scored ones, with what is put before an empty prompt.
        scored_ids: the tokens whose log-probabilities are summed.
        log_likelihood: that sum, in nats.
    """

    text: str
    context_ids: tuple[int, ...]
    scored_ids: tuple[int, ...]
    log_likelihood: float


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row as a program scored it, with that program's value of each metric."""

    example_id: str
    candidates: tuple[ScoredCandidate, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """Means over the rows compared, and the rows whose values differ."""

    ours: float
    theirs: float
    differing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two programs have in common on the rows of a task.

    Attributes:
        excluded: rows of which a candidate has another text, other tokens, or another split into
            context and scored tokens, by that reason.
        num_candidates: those of the rows compared.
        largest: largest difference of a log-likelihood in nats; NaN if one is not a number.
        differing: rows with a difference above ``TOLERANCE``.
        metrics: by name.
    """

    task: str
    num_rows: int
    num_compared: int
    excluded: Mapping[str, int]
    num_candidates: int
    largest: float
    differing: tuple[str, ...]
    metrics: Mapping[str, MetricComparison]

    @property
    def problems(self) -> list[str]:
        """One line for each kind of disagreement; empty if the programs agree."""
        lines = [] if self.num_compared else ["no row has the same tokens in both"]
        if self.differing:
            lines.append(f"log-likelihoods differ by up to {self.largest:.2g} nats: {self.rows}")
        lines += [
            f"{name} differs: {', '.join(metric.differing[:5])}"
            for name, metric in self.metrics.items()
            if metric.differing
        ]
        return [f"{self.task}: {line}" for line in lines]

    @property
    def rows(self) -> str:
        """The first rows with other log-likelihoods, as a message names them."""
        more = len(self.differing) - 5
        return ", ".join(self.differing[:5]) + (f" and {more} more" if more > 0 else "")


def compare(task: str, ours: Sequence[ScoredRow], theirs: Sequence[ScoredRow]) -> Comparison:
    """The same rows, in the same order, as two programs scored them.

    Raises:
        ValueError: other rows, candidates or metrics in one than in the other.
    """
    if [row.example_id for row in ours] != [row.example_id for row in theirs]:
        raise ValueError(f"{task}: the rows are not the same")
    pairs = list(zip(ours, theirs, strict=True))
    reasons = [reason_to_exclude(own, other) for own, other in pairs]
    kept = [pair for pair, reason in zip(pairs, reasons, strict=True) if not reason]
    gaps = {own.example_id: largest_gap(own, other) for own, other in kept}
    return Comparison(
        task=task,
        num_rows=len(pairs),
        num_compared=len(kept),
        excluded=Counter(reason for reason in reasons if reason),
        num_candidates=sum(len(own.candidates) for own, _ in kept),
        largest=largest(list(gaps.values())),
        differing=tuple(name for name, gap in gaps.items() if not gap <= TOLERANCE),
        metrics=compare_metrics(kept),
    )


def reason_to_exclude(own: ScoredRow, other: ScoredRow) -> str:
    """What a candidate of the row has that is not the same in both; empty if nothing."""
    candidates = list(zip(own.candidates, other.candidates, strict=True))
    if any(a.text != b.text for a, b in candidates):
        return "text"
    if any(a.context_ids + a.scored_ids != b.context_ids + b.scored_ids for a, b in candidates):
        return "tokens"
    return "split" if any(a.scored_ids != b.scored_ids for a, b in candidates) else ""


def largest_gap(own: ScoredRow, other: ScoredRow) -> float:
    """Largest difference of the log-likelihoods of a row's candidates, in nats."""
    candidates = zip(own.candidates, other.candidates, strict=True)
    return largest([abs(a.log_likelihood - b.log_likelihood) for a, b in candidates])


def largest(gaps: Sequence[float]) -> float:
    """The largest; NaN if one of them is, which ``max`` alone may overlook."""
    return math.nan if any(math.isnan(gap) for gap in gaps) else max(gaps, default=0.0)


def compare_metrics(pairs: Sequence[tuple[ScoredRow, ScoredRow]]) -> dict[str, MetricComparison]:
    """Each metric over these rows."""
    names = {frozenset(row.metrics) for pair in pairs for row in pair}
    if len(names) > 1:
        raise ValueError(f"the metrics are not the same: {sorted(map(sorted, names))}")
    return {
        name: MetricComparison(
            ours=sum(own.metrics[name] for own, _ in pairs) / len(pairs),
            theirs=sum(other.metrics[name] for _, other in pairs) / len(pairs),
            differing=tuple(
                own.example_id
                for own, other in pairs
                if not abs(own.metrics[name] - other.metrics[name])
                <= METRIC_TOLERANCES.get(name, 0.0)
            ),
        )
        for name in (pairs[0][0].metrics if pairs else ())
    }
