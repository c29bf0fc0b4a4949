"""What a choices run keeps in its output."""

from __future__ import annotations

from functools import cached_property

import pyarrow as pa

from jobs.examples_file import EXAMPLES_KEY, read_examples
from jobs.scoring.choice_rows import examples_of
from jobs.scoring.output import ScoredOutput
from steering_core.datasets.base import ChoiceDataset, ChoiceExample, Contrast, Metric
from steering_core.datasets.frames import order_metrics
from steering_core.datasets.registry import DATASETS
from steersweep.errors import UserError


class ChoicesOutput(ScoredOutput):
    """An output of ``job: choices``."""

    @cached_property
    def contrast(self) -> Contrast | None:
        """What the sweep's vectors tell apart."""
        contrast = self.spec.get("contrast", {})
        if not (contrast.get("positive") and contrast.get("negative")):
            return None
        return Contrast(*(tuple(contrast[key] or ()) for key in ("positive", "negative", "by")))

    @cached_property
    def metrics(self) -> list[Metric]:
        """What is measured of the rows: the data set's metrics, and those of orders."""
        examples = self.examples.values()
        labels = dict.fromkeys(label for e in examples for label in e.labels)
        found = [*self.dataset.metrics(tuple(labels))]
        # Asked of the spec: a group key of the user's own may be called "order", too.
        if self.spec.get("data", {}).get("candidate_orders", 1) > 1:
            found += order_metrics(max(len(e.candidates) for e in examples))
        return found

    @property
    def dataset(self) -> ChoiceDataset:
        """What the labels mean; if ``run.json`` is lost, only that they are labels is known."""
        return DATASETS[self.spec.get("data", {}).get("format") or "choices"]

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
