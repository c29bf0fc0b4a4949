"""Layout and columns of what a persona sweep leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

Phase = Literal["contrast", "steered"]

FROM_FILE = "file"
"""Stands for the pooling of vectors that the spec brings."""

ANSWERS_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("question_index", pa.int32()),
        ("question", pa.string()),
        ("rollout", pa.int32()),
        ("instruction", pa.int32()),
        ("polarity", pa.string()),
        ("system", pa.string()),
        ("layer", pa.int32()),
        ("coeff", pa.float64()),
        ("positions", pa.string()),
        ("apply", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("answer_ids", pa.list_(pa.int32())),
        ("answer", pa.string()),
        ("ended_by", pa.string()),
        ("task_id", pa.string()),
    ]
)
"""Columns of ``answers``.

Null in the phase ``steered``: instruction, polarity and system; in the contrast: layer, coeff,
positions and apply. Coefficient 0 steers nothing: layer, positions and apply are null there, too.
"""

SCORES_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("trait_score", pa.float64()),
        ("trait_outcome", pa.string()),
        ("coherence", pa.float64()),
        ("coherence_outcome", pa.string()),
        ("said", pa.string()),
    ]
)
"""Columns of ``scores``: 0..100, null where the outcome is another than scored."""

SUMS_SCHEMA = pa.schema(
    [
        ("polarity", pa.string()),
        ("pooling", pa.string()),
        ("layer", pa.int32()),
        ("num_answers", pa.int64()),
        ("total", pa.list_(pa.float64())),
    ]
)
"""Columns of ``sums``: float64 sums [d_model] of pooled states over the kept answers of a task."""

PROJECTIONS_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("vector", pa.string()),
        ("pooling", pa.string()),
        ("at_layer", pa.int32()),
        ("response_mean", pa.float64()),
        ("prompt_last", pa.float64()),
        ("cosine", pa.float64()),
    ]
)
"""Columns of ``projections``: of an answer's mean response state and last prompt token on the
vector of a trait (``vector``) and pooling at a layer; ``cosine`` is that of the mean response
state."""


def part_key(table: str, model: str, trait: str, phase: Phase, task_id: str) -> str:
    """Storage key of a task's part of one table, hive-partitioned."""
    return f"{table}/model={model}/trait={trait}/phase={phase}/{task_id}.parquet"


def vectors_key(model: str, trait: str, pooling: str) -> str:
    """Storage key of a trait's vectors."""
    return f"vectors/{model}/{trait}.{pooling}.safetensors"


def rows_of(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """The rows of several parts, of none as well."""
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])
