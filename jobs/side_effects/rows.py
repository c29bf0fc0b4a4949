"""Rows of one measured data set under one steering, as the summary takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jobs.scoring.side_effects_spec import OWN as OWN
from steering_core.datasets.base import Metric, Purpose, ScoredChoices

Kind = Literal["own", "transfer"] | Purpose
"""What is measured. ``own``: the data that the vectors were fitted to. ``transfer``: the data of
another group of the sweep. The others are what a data set of ``side_effects`` is measured for."""


class MeasuredCell(NamedTuple):
    """Scores under one steering.

    Attributes:
        layer, coeff, dose: None if a prompt steers; ``dose`` also if it is not known.
        scored: the same examples in the same order as without steering.
    """

    layer: int | None
    coeff: float | None
    dose: float | None
    scored: ScoredChoices


@dataclass(frozen=True)
class Measured:
    """Rows of one data set, unsteered and under the cells of one vector, or under one prompt.

    Attributes:
        place: what names the vector, by axis: ``{"split": "intersentence", "bias_type": "race"}``.
            Of a prompt: the group of the sweep's own data that its effect is compared on.
        prompt: name of the prompt that steers; empty if a vector does.
        vectors: ``in_sample``, ``held_out`` or ``file``: which vectors steer; empty for a prompt.
        set: name of the data set; ``OWN`` for the sweep's own.
        group: of ``transfer`` rows, the group of the sweep's data that is measured:
            ``intersentence/race``. Otherwise empty.
        metrics: what is measured of the set.
        target: key of the metric that steering is meant to raise, of ``own`` rows with an
            intention; otherwise empty.
        baseline: without steering.
        cells: they are read once.
        examples: names the examples: rows with the same value have the same examples, and clusters
            of different values are different clusters even if they have the same name.
    """

    model: str
    place: Mapping[str, str]
    prompt: str
    vectors: str
    set: str
    kind: Kind
    group: str
    metrics: Sequence[Metric]
    target: str
    baseline: ScoredChoices
    cells: Iterable[MeasuredCell]
    examples: str
