"""Rows of multiple-choice examples, and their texts (a contract: other tools read them)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from jobs.scoring.rows import RowFormat
from jobs.scoring.tables import Sides
from steering_core.chat import ChatFormat
from steering_core.datasets.base import (
    Candidate,
    ChoiceExample,
    Contrast,
    ScoredChoices,
    num_chars,
)
from steering_core.encoding import ExampleEncoder
from steering_core.engine import Scores
from steering_core.protocol import Protocol
from steering_core.scoring import choose
from steersweep.errors import UserError

EXAMPLES_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("prompt", pa.string()),
        ("candidates", pa.list_(pa.string())),
        ("labels", pa.list_(pa.string())),
        ("group", pa.map_(pa.string(), pa.string())),
        ("cluster", pa.string()),
        ("options", pa.list_(pa.string())),
    ]
)
"""Columns of ``examples.parquet``: the texts behind the ids of rows."""


@dataclass(frozen=True)
class ChoiceRows(RowFormat[ChoiceExample]):
    """The rows of multiple-choice examples.

    Scores come in the order in which each example lists its candidates, as lists: examples of one
    data set may have different numbers of candidates.

    Attributes:
        group_keys: keys of the examples' group; each is a column ``group_<key>``.
        contrast: what is pooled for vectors; None: nothing.
        chat: whether prompts are put into the model's chat template.
        chat_options: more for the template.
    """

    group_keys: tuple[str, ...]
    contrast: Contrast | None = None
    chat: bool = False
    chat_options: tuple[tuple[str, str], ...] = ()

    sides: ClassVar[Sides] = ("negative", "positive")
    scores_per_candidate: ClassVar[int] = 2

    @property
    def schema(self) -> pa.Schema:
        """See ``RowFormat``."""
        return pa.schema(
            [
                ("example_id", pa.string()),
                *((f"group_{key}", pa.string()) for key in self.group_keys),
                ("layer", pa.int32()),
                ("coeff", pa.float64()),
                ("read", pa.string()),
                ("apply", pa.string()),
                ("labels", pa.list_(pa.string())),
                ("scores", pa.list_(pa.float64())),
                ("sums", pa.list_(pa.float64())),
                ("num_tokens", pa.list_(pa.int32())),
                ("num_chars", pa.list_(pa.int32())),
                ("choice", pa.string()),
                ("choice_index", pa.int8()),
                ("task_id", pa.string()),
            ]
        )

    def columns(self, examples: Sequence[ChoiceExample], scores: Scores) -> dict[str, Any]:
        """See ``RowFormat``."""
        counts = [scores.num_scored[n, : len(e.candidates)] for n, e in enumerate(examples)]
        means = [scores.scores[n, : len(e.candidates)] for n, e in enumerate(examples)]
        return {
            **{f"group_{k}": [e.group_value(k) for e in examples] for k in self.group_keys},
            "labels": [e.labels for e in examples],
            "scores": means,
            "sums": [mean * num for mean, num in zip(means, counts, strict=True)],
            "num_tokens": counts,
            "num_chars": [[num_chars(text) for text in e.texts] for e in examples],
        }

    def chosen(self, scores: Scores) -> np.ndarray:
        """See ``RowFormat``: the largest sum, as ``acc`` counts it."""
        return choose(scores.scores * scores.num_scored, scores.is_there)

    def stored_scores(
        self,
        rows: pa.Table,
        examples: Sequence[ChoiceExample],  # noqa: ARG002 - rows are in their order already
    ) -> list[np.ndarray]:
        """See ``RowFormat``."""
        return [np.asarray(scores, np.float64) for scores in rows["scores"].to_pylist()]

    def is_finite(self, rows: pa.Table) -> np.ndarray:
        """See ``RowFormat``."""
        return np.asarray([np.isfinite(scores).all() for scores in rows["scores"].to_pylist()])

    def encoder(self, tokenizer: Any, protocol: Protocol, model: str) -> ExampleEncoder:
        """See ``RowFormat``.

        Raises:
            UserError: the model has no chat template and needs one, or the template writes the
                date, so that prompts would be others tomorrow.
        """
        chat = None
        if self.chat:
            chat = ChatFormat(tokenizer, model, options=dict(self.chat_options))
            if chat.writes_the_date:
                options = " or ".join(chat.options_for_the_date()) or "none that could be found"
                raise UserError(
                    f"the chat template of {model} writes today's date, so scores would change "
                    f"from day to day; fix it by data.chat_options (options for it: {options})"
                )
        return ExampleEncoder(tokenizer, protocol, model, contrast=self.contrast, chat=chat)


def scored_choices(rows: pa.Table, examples: Mapping[str, ChoiceExample]) -> ScoredChoices:
    """Stored rows as metrics take them, in their order.

    Args:
        examples: by id, see ``examples_of``.
    """
    sums, counts = rows["sums"].to_pylist(), rows["num_tokens"].to_pylist()
    most = max(map(len, counts), default=0)
    padded = np.full((len(sums), most), np.nan)
    num_tokens = np.zeros((len(sums), most), np.int64)
    for n, (of_row, tokens) in enumerate(zip(sums, counts, strict=True)):
        padded[n, : len(of_row)] = of_row
        num_tokens[n, : len(tokens)] = tokens
    found = [examples[example_id] for example_id in rows["example_id"].to_pylist()]
    return ScoredChoices(found, padded, num_tokens)


def examples_table(examples: Sequence[ChoiceExample], metadata: Mapping[str, str]) -> pa.Table:
    """``examples.parquet``, in the order of the data file."""
    rows = [
        {
            "example_id": example.example_id,
            "prompt": example.prompt,
            "candidates": example.texts,
            "labels": example.labels,
            "group": example.group,
            "cluster": example.cluster,
            "options": example.options,
        }
        for example in examples
    ]
    return pa.Table.from_pylist(rows, schema=EXAMPLES_SCHEMA.with_metadata(dict(metadata)))


def examples_of(table: pa.Table) -> dict[str, ChoiceExample]:
    """The examples of ``examples.parquet`` by id, without the stem that other frames need."""
    return {
        row["example_id"]: ChoiceExample(
            row["example_id"],
            row["prompt"],
            tuple(map(Candidate, row["candidates"], row["labels"])),
            tuple(map(tuple, row["group"])),
            row["cluster"],
            options=tuple(row["options"]),
        )
        for row in table.to_pylist()
    }
