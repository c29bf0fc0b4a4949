"""Layout and columns of what a StereoSet sweep leaves (a contract: other tools read them)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from steering_core.engine import Scores
from steering_core.scoring import choose
from steering_core.stereoset import LABELS, Example
from steering_core.vectors import FoldSums

ROWS_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("target", pa.string()),
        ("layer", pa.int32()),
        ("coeff", pa.float64()),
        ("read", pa.string()),
        ("apply", pa.string()),
        ("score_stereotype", pa.float64()),
        ("score_anti_stereotype", pa.float64()),
        ("score_unrelated", pa.float64()),
        ("num_tokens_stereotype", pa.int32()),
        ("num_tokens_anti_stereotype", pa.int32()),
        ("num_tokens_unrelated", pa.int32()),
        ("choice", pa.string()),
        ("choice_index", pa.int8()),
        ("task_id", pa.string()),
    ]
)
"""Columns of ``baseline`` and ``steered``; layer, coeff, read and apply are null in baseline."""

SUMS_SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("fold", pa.int32()),
        ("num_examples", pa.int64()),
        ("total", pa.list_(pa.float64())),
    ]
)
"""Columns of ``sums``: float64 sums [d_model] of pooled differences of one task."""


def part_key(table: str, model: str, split: str, bias_type: str, task_id: str) -> str:
    """Storage key of a task's part of one table, hive-partitioned."""
    return f"{table}/model={model}/split={split}/bias_type={bias_type}/{task_id}.parquet"


def vectors_key(model: str, split: str, bias_type: str) -> str:
    """Storage key of a group's steering vectors."""
    return f"vectors/{model}/{split}/{bias_type}.safetensors"


def rows_table(
    examples: Sequence[Example],
    scores: Scores,
    task_id: str,
    cell: Mapping[str, object] | None = None,
) -> pa.Table:
    """Rows of one cell (``layer``, ``coeff``, ``read``, ``apply``), or of the baseline."""
    by_label = np.asarray([[e.index_of(label) for label in LABELS] for e in examples])
    ordered = np.take_along_axis(scores.scores, by_label, axis=1)
    counted = np.take_along_axis(scores.num_scored, by_label, axis=1)
    chosen = choose(scores.scores)
    columns: dict[str, object] = {
        "example_id": [e.example_id for e in examples],
        "target": [e.target for e in examples],
        **{
            key: [None if cell is None else cell[key]] * len(examples)
            for key in ("layer", "coeff", "read", "apply")
        },
        "choice": [
            e.labels[index] if index >= 0 else None
            for e, index in zip(examples, chosen, strict=True)
        ],
        "choice_index": [int(index) if index >= 0 else None for index in chosen],
        "task_id": [task_id] * len(examples),
    }
    for column, label in enumerate(LABELS):
        name = label.replace("-", "_")
        columns[f"score_{name}"] = ordered[:, column]
        columns[f"num_tokens_{name}"] = counted[:, column]
    return pa.table({name: columns[name] for name in ROWS_SCHEMA.names}, schema=ROWS_SCHEMA)


def stored_scores(rows: pa.Table, examples: Sequence[Example]) -> np.ndarray:
    """Scores [N, 3] of stored rows in the data file's order, the inverse of ``rows_table``."""
    columns = {
        label: rows[f"score_{label.replace('-', '_')}"].to_numpy(zero_copy_only=False)
        for label in LABELS
    }
    return np.asarray([[columns[x][n] for x in e.labels] for n, e in enumerate(examples)])


def sums_table(sums: Sequence[FoldSums]) -> pa.Table:
    """The ``sums`` table of one task."""
    return pa.table(
        {
            "layer": [s.layer for s in sums],
            "fold": [s.fold for s in sums],
            "num_examples": [s.num_examples for s in sums],
            "total": [s.total.tolist() for s in sums],
        },
        schema=SUMS_SCHEMA,
    )


def fold_sums(table: pa.Table) -> list[FoldSums]:
    """The sums in a ``sums`` table, in its order."""
    return [
        FoldSums(row["layer"], row["fold"], np.asarray(row["total"]), row["num_examples"])
        for row in table.to_pylist()
    ]
