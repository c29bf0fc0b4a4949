"""What a StereoSet sweep does in an output."""

from __future__ import annotations

import pyarrow as pa

from jobs.scoring.workflow import ScoredWorkflow
from jobs.stereoset.examples import sweep_examples
from jobs.stereoset.resolve import Sweep


class StereoSetWorkflow(ScoredWorkflow[Sweep]):
    """See ``ScoredWorkflow``."""

    def examples(self) -> pa.Table:
        """See ``Workflow``."""
        return sweep_examples(self.sweep)
