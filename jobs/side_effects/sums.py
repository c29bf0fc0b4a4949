"""What is kept of the rows of side effects: sums by cluster, of every steering and data set.

Shapes: N examples, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from jobs.estimates.cells import Ranged, changed_by, clusters_of
from jobs.estimates.sums import CellSums, MetricSums, Unsteered
from jobs.scoring.tables import HELD_OUT
from jobs.side_effects.rows import Measured
from jobs.side_effects.tables import MEASURE_KEYS
from steering_core.datasets.base import Metric
from steering_core.stats.clusters import ClusterEstimate
from steering_core.stats.standardized import Moments, standard_deviation, standardized


class Steering(NamedTuple):
    """A vector's place, layer and coefficient, or a prompt and the place it is compared at."""

    model: str
    place: tuple[str, ...]
    """Values of the axes, in their order."""
    layer: int | None
    coeff: float | None
    prompt: str

    def columns(self, axes: Sequence[str]) -> dict[str, Any]:
        """The columns that tell it apart."""
        at = dict(zip(axes, self.place, strict=True))
        names = ("layer", "coeff", "prompt")
        return {"model": self.model, **at, **{name: getattr(self, name) for name in names}}

    @property
    def sign(self) -> float:
        """Which way it is meant to push: 1, -1, or 0 of coefficient 0."""
        return 1.0 if self.coeff is None else float(np.sign(self.coeff))


class DataPart(NamedTuple):
    """A data set, or of transfer a group of the sweep's data."""

    set: str
    group: str


class Measure(NamedTuple):
    """A column of the matrix, as ``MEASURE_KEYS``."""

    set: str
    group: str
    metric: str

    @property
    def data(self) -> DataPart:
        """What it is measured on."""
        return DataPart(self.set, self.group)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that tell it apart."""
        return dict(zip(MEASURE_KEYS, self, strict=True))


@dataclass(frozen=True)
class Baseline:
    """A data set without steering.

    Attributes:
        vectors, kind, target, examples: of ``Measured``, whose rows are not kept.
        clusters: [K] names that differ from those of other examples.
        metrics, moments: by key.
    """

    vectors: str
    kind: str
    target: str
    examples: str
    clusters: tuple[str, ...]
    metrics: Mapping[str, Metric]
    moments: Mapping[str, Moments]
    _deviations: dict[str, ClusterEstimate] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, measured: Measured, before: Unsteered, is_in: np.ndarray | None = None) -> Baseline:
        """The sums of all examples, or of some ([N] bool)."""
        is_in = np.ones(len(before.cluster_index), bool) if is_in is None else is_in
        there, index = np.unique(before.cluster_index[is_in], return_inverse=True)
        names = before.cluster_names
        return cls(
            measured.vectors,
            measured.kind,
            measured.target,
            measured.examples,
            tuple(f"{measured.examples}\n{names[k]}" for k in there),
            {metric.key: metric for metric in measured.metrics},
            {
                key: Moments.of(terms[is_in], index, len(there))
                for key, terms in before.terms.items()
            },
        )

    def deviation(self, key: str) -> ClusterEstimate:
        """The standard deviation of a metric over examples."""
        if key not in self._deviations:
            self._deviations[key] = standard_deviation(
                self.moments[key], self.metrics[key].of_means, clusters_of(self.clusters)
            )
        return self._deviations[key]

    def of_clusters(self, is_in: np.ndarray) -> Baseline:
        """Of some clusters ([K] bool)."""
        return replace(
            self,
            clusters=tuple(compress(self.clusters, is_in)),
            moments={key: moments.of_clusters(is_in) for key, moments in self.moments.items()},
            _deviations={},
        )


@dataclass(frozen=True)
class Change:
    """How a metric changed, and what it was without steering and with it."""

    before: float
    after: float
    change: Ranged

    @property
    def estimate(self) -> ClusterEstimate:
        """[1] of the change."""
        return self.change.estimate


@dataclass(frozen=True)
class SteeredData:
    """A data set under one steering.

    Attributes:
        sums: of each metric by its key, over the clusters of the baseline.
    """

    baseline: Baseline
    dose: float | None
    sums: Mapping[str, MetricSums]
    _changes: dict[str, Change] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, baseline: Baseline, dose: float | None, sums: CellSums) -> SteeredData:
        """What is kept of a cell."""
        assert len(sums.clusters) == len(baseline.clusters), "not the same clusters"
        return cls(baseline, dose, {key: sums.of_metric(key) for key in baseline.metrics})

    def change(self, key: str) -> Change:
        """How a metric changed."""
        if key not in self._changes:
            metric = self.baseline.metrics[key]
            changed = changed_by(metric, self.sums[key], self.baseline.clusters)
            before, after = float(changed.before.value[0]), changed.after.value
            self._changes[key] = Change(before, after, changed.change)
        return self._changes[key]

    def standardized(self, key: str) -> ClusterEstimate:
        """The change of a metric [1] in standard deviations over examples without steering."""
        return standardized(self.change(key).estimate, self.baseline.deviation(key))

    def num_examples(self, key: str) -> int:
        """Examples that a metric is measured on, before and after."""
        return int(self.sums[key].num.sum())


Read = Mapping[Steering, Mapping[DataPart, Mapping[str, SteeredData]]]
"""What was read, by steering, by data set, and by kind of vectors."""


def in_matrix(by_vectors: Mapping[str, SteeredData]) -> str:
    """The kind of vectors that the matrix takes: held-out ones if there are any."""
    return HELD_OUT if HELD_OUT in by_vectors else next(iter(by_vectors))


def every(read: Read) -> Iterator[tuple[Steering, DataPart, str, SteeredData]]:
    """All that was read, with the kind of vectors."""
    for steering, by_data in read.items():
        for data, by_vectors in by_data.items():
            for vectors, steered_data in by_vectors.items():
                yield steering, data, vectors, steered_data
