"""A choices sweep's own rows, for the summary of side effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from jobs.choices.output import ChoicesOutput
from jobs.estimates.gap import GAP, gap_metric
from jobs.scoring.choice_rows import scored_choices
from jobs.scoring.groups import Group
from jobs.side_effects.stored import OwnData, Scored, has_intent
from steering_core.datasets.base import Metric


@dataclass(frozen=True)
class ChoicesData(OwnData):
    """See ``OwnData``; steering is meant to raise the gap of the contrast."""

    output: ChoicesOutput

    def scored(self, group: Group) -> Scored:  # noqa: ARG002 - ids are unique in the data set
        """See ``OwnData``."""
        return lambda rows: scored_choices(rows, self.output.examples)

    def metrics(self) -> Sequence[Metric]:
        """See ``OwnData``."""
        contrast = self.output.contrast
        return [*([gap_metric(contrast)] if contrast else []), *self.output.metrics]

    def texts(self) -> pa.Table:
        """See ``OwnData``."""
        return self.output.texts

    def target(self) -> str:
        """See ``OwnData``."""
        return GAP if self.output.contrast and has_intent(self.output) else ""
