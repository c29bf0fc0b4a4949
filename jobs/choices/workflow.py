"""What a choices sweep does in an output."""

from __future__ import annotations

import pyarrow as pa

from jobs.choices.resolve import ChoicesSweep
from jobs.data_source import source_of_set
from jobs.scoring.choice_rows import examples_table
from jobs.scoring.workflow import ScoredWorkflow


class ChoicesWorkflow(ScoredWorkflow[ChoicesSweep]):
    """See ``ScoredWorkflow``."""

    def examples(self) -> pa.Table:
        """See ``Workflow``."""
        sweep = self.sweep
        examples = [e for group, _ in sweep.groups.values() for e in group]
        return examples_table(
            examples, source_of_set(sweep.dataset, sweep.spec.data.path).metadata()
        )
