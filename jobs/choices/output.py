"""What a choices run keeps in its output."""

from __future__ import annotations

from functools import cached_property

import pyarrow as pa

from jobs.examples_file import EXAMPLES_KEY, read_examples
from jobs.scoring.choice_rows import examples_of
from jobs.scoring.output import ScoredOutput
from steering_core.datasets.base import ChoiceExample
from steersweep.errors import UserError


class ChoicesOutput(ScoredOutput):
    """An output of ``job: choices``."""

    @cached_property
    def examples(self) -> dict[str, ChoiceExample]:
        """The examples by id; raises as ``texts``."""
        return examples_of(self.texts)

    @cached_property
    def texts(self) -> pa.Table:
        """``examples.parquet``.

        Raises:
            UserError: it is lost or damaged.
        """
        table = read_examples(self.storage)
        if table is None:
            raise UserError(
                f"{self.storage.uri} has no readable {EXAMPLES_KEY}; the same `steersweep run` "
                "writes it again"
            )
        return table
