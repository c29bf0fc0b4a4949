"""What a choices sweep does in an output."""

from __future__ import annotations

import pyarrow as pa

from jobs.choices.resolve import ChoicesSweep
from jobs.data_source import DataSource
from jobs.scoring.choice_rows import examples_table
from jobs.scoring.workflow import ScoredWorkflow


class ChoicesWorkflow(ScoredWorkflow[ChoicesSweep]):
    """See ``ScoredWorkflow``."""

    def examples(self) -> pa.Table:
        """See ``Workflow``."""
        sweep = self.sweep
        examples = [e for group, _ in sweep.groups.values() for e in group]
        return examples_table(examples, _source_of(sweep).metadata())


def _source_of(sweep: ChoicesSweep) -> DataSource:
    """Where the texts come from, for whoever gets a copy of them."""
    dataset = sweep.dataset
    if dataset.name == "choices":  # a user's own
        return DataSource("unknown", f"{sweep.spec.data.path}; the license is what its source says")
    return DataSource(dataset.licence, dataset.title, dataset.homepage)
