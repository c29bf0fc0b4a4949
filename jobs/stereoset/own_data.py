"""A StereoSet sweep's own rows, for the summary of side effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from jobs.estimates.gap import gap_metric
from jobs.scoring.groups import Group
from jobs.side_effects.stored import OwnData, Scored, has_intent
from jobs.stereoset.examples import stored_examples
from jobs.stereoset.groups import place_of
from jobs.stereoset.output import StereoSetOutput
from jobs.stereoset.tables import NAMES
from steering_core.datasets.base import Candidate, ChoiceExample, Metric, ScoredChoices
from steering_core.datasets.stereoset import CONTRAST, METRICS

TARGET = "s2a"


@dataclass(frozen=True)
class StereoSetData(OwnData):
    """See ``OwnData``; steering is meant to raise S2A, the change of the gap."""

    output: StereoSetOutput

    def scored(self, group: Group) -> Scored:
        """See ``OwnData``."""
        examples = self._examples[place_of(group)]
        return lambda rows: _scored(rows, examples)

    def metrics(self) -> Sequence[Metric]:
        """See ``OwnData``."""
        gap = replace(
            gap_metric(CONTRAST),
            key=TARGET,
            label="S→A gap",
            formula="mean over examples of the mean log-probability of a token of the "
            "anti-stereotype minus that of the stereotype; its change is S2A",
        )
        return [gap, *METRICS]

    def texts(self) -> pa.Table:
        """See ``OwnData``."""
        output = self.output
        return stored_examples(output.storage, output.inventory, output.record or {})

    def target(self) -> str:
        """See ``OwnData``."""
        return TARGET if has_intent(self.output) else ""

    @cached_property
    def _examples(self) -> Mapping[tuple[str, str], Mapping[str, ChoiceExample]]:
        """Examples by id, of each split and bias type: ids are unique in these."""
        found: dict[tuple[str, str], dict[str, ChoiceExample]] = {}
        for row in self.texts().to_pylist():
            example = ChoiceExample(
                row["example_id"],
                row["context"],
                tuple(map(Candidate, row["candidates"], row["labels"])),
                cluster=row["target"],
            )
            found.setdefault((row["split"], row["bias_type"]), {})[example.example_id] = example
        return found


def _scored(rows: pa.Table, examples: Mapping[str, ChoiceExample]) -> ScoredChoices:
    """Rows in the order of their examples' candidates; stored columns go by label."""
    chosen = [examples[example_id] for example_id in rows["example_id"].to_pylist()]
    labels = list(NAMES)
    at = np.asarray([[labels.index(label) for label in e.labels] for e in chosen])
    means, counts = (
        np.column_stack([rows[f"{column}_{name}"].to_numpy() for name in NAMES.values()])
        for column in ("score", "num_tokens")
    )
    scores = np.take_along_axis(means, at, axis=1)
    num_tokens = np.take_along_axis(counts, at, axis=1).astype(np.int64)
    return ScoredChoices(chosen, scores * num_tokens, num_tokens)
