"""Sums of a cell by cluster: all that is kept of its rows, and what every estimate follows from.

Shapes: N examples, K clusters, T terms of a metric, E columns of a cell's sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from steering_core.datasets.base import Metric, ScoredChoices
from steering_core.scoring import choose
from steering_core.stats.clusters import sums_by_cluster

_COMPARED, _CHANGED, _KL, _KL_TOKENS, _NUM_COMMON = range(5)


@dataclass(frozen=True)
class MetricSums:
    """What a metric follows from.

    Attributes:
        num: [K] examples with all terms before and after; the others count nowhere here.
        before, after: [K, T] sums of the terms.
        up, down: [K] examples whose only term rose, fell; 0 if the metric has several.
        is_binary: whether the only term was 0 or 1 in every example.
    """

    num: np.ndarray
    before: np.ndarray
    after: np.ndarray
    up: np.ndarray
    down: np.ndarray
    is_binary: bool

    def of_clusters(self, is_in: np.ndarray) -> MetricSums:
        """Of some clusters ([K] bool)."""
        names = ("num", "before", "after", "up", "down")
        return replace(self, **{name: getattr(self, name)[is_in] for name in names})


@dataclass(frozen=True)
class CellSums:
    """The sums of a cell, or of the same cell of several fits.

    Attributes:
        matrix: [K, E].
        num_examples: of the cell.
        num_non_finite: examples of which a steered score is not finite.
        num_terms: T of each metric by its key, in the order of their columns.
    """

    clusters: tuple[str, ...]
    matrix: np.ndarray
    num_examples: int
    num_non_finite: int
    num_terms: Mapping[str, int]

    def of_metric(self, key: str) -> MetricSums:
        """The sums of one metric."""
        first, num_terms = self._starts[key], self.num_terms[key]
        before, after = first + 1, first + 1 + num_terms
        end = after + num_terms
        up, down, odd = self.matrix[:, end : end + 3].T
        return MetricSums(
            self.matrix[:, first],
            self.matrix[:, before:after],
            self.matrix[:, after:end],
            up,
            down,
            is_binary=num_terms == 1 and not odd.any(),
        )

    @property
    def compared(self) -> np.ndarray:
        """[K] examples whose choice is defined before and after."""
        num: np.ndarray = self.matrix[:, _COMPARED]
        return num

    @property
    def changed(self) -> np.ndarray:
        """[K] examples whose choice changed."""
        num: np.ndarray = self.matrix[:, _CHANGED]
        return num

    @property
    def divergence(self) -> tuple[np.ndarray, np.ndarray]:
        """[K] sum of divergences over scored tokens, and [K] these tokens; 0 if not measured."""
        return self.matrix[:, _KL], self.matrix[:, _KL_TOKENS]

    @cached_property
    def _starts(self) -> dict[str, int]:
        starts, first = {}, int(_NUM_COMMON)
        for key, num_terms in self.num_terms.items():
            starts[key] = first
            first += 2 * num_terms + 4
        return starts


@dataclass(frozen=True)
class Unsteered:
    """The unsteered rows of a fit, with what every cell is compared with.

    Attributes:
        terms: [N, T] of each metric, by its key.
        chosen: [N] index of the choice; -1 if undefined, or if there is one candidate.
    """

    scored: ScoredChoices
    metrics: Sequence[Metric]
    terms: Mapping[str, np.ndarray]
    chosen: np.ndarray

    @classmethod
    def of(cls, scored: ScoredChoices, metrics: Sequence[Metric]) -> Unsteered:
        """The same with what follows from the scores."""
        terms = {metric.key: metric.terms(scored) for metric in metrics}
        # Of one candidate there is no choice that could change.
        has_choice = scored.is_there.sum(axis=1) > 1
        chosen = np.where(has_choice, choose(scored.sums, scored.is_there), -1)
        return cls(scored, metrics, terms, chosen)

    @cached_property
    def cluster_names(self) -> tuple[str, ...]:
        """Of the clusters, each once."""
        return tuple(dict.fromkeys(self._clusters))

    @cached_property
    def _clusters(self) -> list[str]:
        return [example.cluster or example.example_id for example in self.scored.examples]

    @cached_property
    def cluster_index(self) -> np.ndarray:
        """[N] index of each example's cluster."""
        place = {name: index for index, name in enumerate(self.cluster_names)}
        return np.asarray([place[name] for name in self._clusters], int)

    def compared(self, steered: ScoredChoices, kl: np.ndarray | None = None) -> Compared:
        """What each example adds to the sums of a cell.

        Args:
            steered: of the same examples in the same order.
            kl: [N] mean nats over each row's scored tokens, if measured.
        """
        ids = [example.example_id for example in steered.examples]
        assert ids == [e.example_id for e in self.scored.examples], "not the same examples"
        columns = [_of_choices(self.chosen, choose(steered.sums, steered.is_there))]
        columns += [_of_divergence(kl, steered)]
        columns += [_of_terms(self.terms[of.key], of.terms(steered)) for of in self.metrics]
        is_finite = np.isfinite(steered.sums) | ~steered.is_there
        return Compared(self, np.hstack(columns), is_finite.all(axis=1))

    @property
    def alone(self) -> Compared:
        """Compared with itself: what it is without steering."""
        return self.compared(self.scored)


@dataclass(frozen=True)
class Compared:
    """What each example of a cell adds to its sums [N, E]; whether its scores are finite [N]."""

    before: Unsteered
    values: np.ndarray
    is_finite: np.ndarray

    def sums(self, is_in: np.ndarray | None = None) -> CellSums:
        """The sums of all examples, or of some; clusters without any of them are left out."""
        before = self.before
        index, names, values = before.cluster_index, before.cluster_names, self.values
        is_finite = self.is_finite
        if is_in is not None:
            there, index = np.unique(index[is_in], return_inverse=True)
            names = tuple(names[index] for index in there)
            values, is_finite = values[is_in], is_finite[is_in]
        return CellSums(
            names,
            sums_by_cluster(values, index, len(names)),
            len(values),
            int((~is_finite).sum()),
            {key: terms.shape[1] for key, terms in before.terms.items()},
        )


def pooled(cells: Sequence[CellSums]) -> CellSums:
    """The sums of several cells together; a cluster that several have is one cluster."""
    if len(cells) == 1:
        return cells[0]
    names = tuple(dict.fromkeys(name for cell in cells for name in cell.clusters))
    place = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(names), cells[0].matrix.shape[1]))
    for cell in cells:
        matrix[[place[name] for name in cell.clusters]] += cell.matrix
    return CellSums(
        names,
        matrix,
        sum(cell.num_examples for cell in cells),
        sum(cell.num_non_finite for cell in cells),
        cells[0].num_terms,
    )


def _of_choices(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    compared = (before >= 0) & (after >= 0)
    return np.column_stack([compared, compared & (before != after)]).astype(float)


def _of_divergence(kl: np.ndarray | None, steered: ScoredChoices) -> np.ndarray:
    num_tokens = steered.num_tokens.sum(axis=1).astype(float)
    kl = np.full(len(num_tokens), np.nan) if kl is None else kl
    there = np.isfinite(kl)
    return np.column_stack([np.where(there, kl * num_tokens, 0.0), np.where(there, num_tokens, 0)])


def _of_terms(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    there = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    before, after = (np.where(there[:, None], terms, 0.0) for terms in (before, after))
    has_one = before.shape[1] == 1
    change = (after - before)[:, 0] if has_one else np.zeros(len(before))
    binary = np.isin(before, (0.0, 1.0)).all(axis=1) & np.isin(after, (0.0, 1.0)).all(axis=1)
    return np.column_stack([there, before, after, change > 0, change < 0, ~binary]).astype(float)
