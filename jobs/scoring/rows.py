"""Tables of scored rows: the columns that every job has, and the interface to those of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic

import numpy as np
import pyarrow as pa

from jobs.scoring.groups import ExampleT
from jobs.scoring.tables import Sides
from steering_core.encoding import ExampleEncoder
from steering_core.engine import Scores
from steering_core.protocol import Protocol
from steering_core.scoring import Measure, choose

KL_FIELD = pa.field("kl", pa.float64())
"""A last column of steered rows, if the sweep measures it: a row's mean D_KL(P_steered ||
P_unsteered) over its scored tokens, in nats."""

_CELL = ("layer", "coeff", "read", "apply")


class RowFormat(ABC, Generic[ExampleT]):
    """How a job's examples become token ids, and their scores rows. Replicas get it pickled.

    Attributes:
        scores_per_candidate: float64 numbers that a row stores of each, for forecasts.
    """

    scores_per_candidate: ClassVar[int] = 1

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """Columns of ``baseline`` and ``steered``: the job's own (``columns``), and ``example_id``,
        ``layer``, ``coeff``, ``read``, ``apply``, ``choice``, ``choice_index``, ``task_id``."""

    @property
    @abstractmethod
    def sides(self) -> Sides:
        """Columns of ``states``."""

    @abstractmethod
    def columns(self, examples: Sequence[ExampleT], scores: Scores) -> Mapping[str, Any]:
        """The job's own columns of some rows."""

    @abstractmethod
    def stored_scores(self, rows: pa.Table, examples: Sequence[ExampleT]) -> Sequence[np.ndarray]:
        """Scores [C] of each stored row as ``Scores.of_row`` has them."""

    @abstractmethod
    def is_finite(self, rows: pa.Table) -> np.ndarray:
        """[N] bool: whether all scores of a row are finite."""

    def chosen(self, scores: Scores) -> np.ndarray:
        """Index [N] int8 of the candidate that each row chooses; -1 if a score is not a number."""
        return choose(scores.scores, scores.is_there)

    def encoder(self, tokenizer: Any, protocol: Protocol, model: str) -> ExampleEncoder:
        """What encodes the job's examples.

        Args:
            model: its path, for messages.

        Raises:
            UserError: the tokenizer lacks a token that the protocol needs.
        """
        return ExampleEncoder(tokenizer, protocol, model)

    def rows_schema(self, measures: Collection[Measure]) -> pa.Schema:
        """Columns of steered rows of which these measures were taken."""
        return self.schema.append(KL_FIELD) if "kl" in measures else self.schema

    def rows_table(
        self,
        examples: Sequence[ExampleT],
        scores: Scores,
        task_id: str,
        cell: Mapping[str, object] | None = None,
    ) -> pa.Table:
        """Rows of one cell (``layer``, ``coeff``, ``read``, ``apply``), or of the baseline."""
        columns = {
            **self._common(examples, scores, task_id, cell or dict.fromkeys(_CELL)),
            **self.columns(examples, scores),
        }
        ordered = {name: columns[name] for name in self.schema.names}
        table = pa.table(ordered, schema=self.schema)
        return table if scores.kl is None else table.append_column(KL_FIELD, pa.array(scores.kl))

    def _common(
        self, examples: Sequence[ExampleT], scores: Scores, task_id: str, cell: Mapping[str, object]
    ) -> dict[str, Any]:
        chosen = self.chosen(scores)
        return {
            "example_id": [e.example_id for e in examples],
            **{key: [cell[key]] * len(examples) for key in _CELL},
            "choice": [
                e.labels[index] if index >= 0 else None
                for e, index in zip(examples, chosen, strict=True)
            ],
            "choice_index": [int(index) if index >= 0 else None for index in chosen],
            "task_id": [task_id] * len(examples),
        }
