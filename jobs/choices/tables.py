"""Columns of what a choices sweep leaves (a contract: other tools read them)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from steering_core.datasets.base import Candidate, ChoiceExample, ScoredChoices, num_chars
from steering_core.engine import Scores
from steering_core.scoring import Measure, choose

KL_FIELD = pa.field("kl", pa.float64())

EXAMPLES_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("prompt", pa.string()),
        ("candidates", pa.list_(pa.string())),
        ("labels", pa.list_(pa.string())),
        ("group", pa.map_(pa.string(), pa.string())),
        ("cluster", pa.string()),
    ]
)
"""Columns of ``examples.parquet``: the texts behind the ids of rows."""


@dataclass(frozen=True)
class ChoiceRows:
    """The rows of a choices sweep.

    Scores come in the order in which each example lists its candidates, as lists: examples of one
    data set may have different numbers of candidates.

    Attributes:
        group_keys: keys of the examples' group; each is a column ``group_<key>``.
    """

    group_keys: tuple[str, ...]

    def schema(self, measures: Collection[Measure] = ()) -> pa.Schema:
        """Columns of ``baseline`` and of steered rows; layer, coeff, read and apply are null in
        baseline."""
        columns = [
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
        schema = pa.schema(columns)
        return schema.append(KL_FIELD) if "kl" in measures else schema

    def table(
        self,
        examples: Sequence[ChoiceExample],
        scores: Scores,
        task_id: str,
        cell: Mapping[str, object] | None = None,
    ) -> pa.Table:
        """Rows of one cell (``layer``, ``coeff``, ``read``, ``apply``), or of the baseline.

        The choice is the candidate with the largest sum, as ``acc`` counts it.
        """
        sums = scores.scores * scores.num_scored
        chosen = choose(sums, scores.is_there)
        rows = [
            {
                "example_id": example.example_id,
                **{f"group_{key}": example.group_value(key) for key in self.group_keys},
                **(cell or {}),
                "labels": example.labels,
                "scores": scores.scores[n, : len(example.candidates)],
                "sums": sums[n, : len(example.candidates)],
                "num_tokens": scores.num_scored[n, : len(example.candidates)],
                "num_chars": [num_chars(text) for text in example.texts],
                "choice": example.labels[chosen[n]] if chosen[n] >= 0 else None,
                "choice_index": int(chosen[n]) if chosen[n] >= 0 else None,
                "task_id": task_id,
            }
            for n, example in enumerate(examples)
        ]
        table = pa.Table.from_pylist(rows, schema=self.schema())
        return table if scores.kl is None else table.append_column(KL_FIELD, pa.array(scores.kl))

    def stored_scores(self, rows: pa.Table, examples: Sequence[ChoiceExample]) -> list[np.ndarray]:  # noqa: ARG002
        """Scores [C] of each stored row, the inverse of ``table``."""
        return [np.asarray(scores) for scores in rows["scores"].to_pylist()]


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
        }
        for example in examples
    ]
    return pa.Table.from_pylist(rows, schema=EXAMPLES_SCHEMA.with_metadata(dict(metadata)))


def examples_of(table: pa.Table) -> dict[str, ChoiceExample]:
    """The examples of ``examples.parquet`` by id, without what other frames need."""
    return {
        row["example_id"]: ChoiceExample(
            row["example_id"],
            row["prompt"],
            tuple(map(Candidate, row["candidates"], row["labels"])),
            tuple(map(tuple, row["group"])),
            row["cluster"],
        )
        for row in table.to_pylist()
    }
