"""Columns of StereoSet's rows (a contract: other tools read them)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.scoring.rows import RowFormat
from steering_core.engine import Scores
from steering_core.stereoset import LABELS, Example

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

NAMES = {label: label.replace("-", "_") for label in LABELS}


class StereoSetRows(RowFormat[Example]):
    """See ``RowFormat``; a column for the score of each label, and one for its tokens."""

    schema = ROWS_SCHEMA
    sides = ("stereotype", "anti_stereotype")

    def columns(self, examples: Sequence[Example], scores: Scores) -> dict[str, Any]:
        """See ``RowFormat``."""
        by_label = np.asarray([[e.index_of(label) for label in LABELS] for e in examples])
        ordered = np.take_along_axis(scores.scores, by_label, axis=1)
        counted = np.take_along_axis(scores.num_scored, by_label, axis=1)
        columns: dict[str, Any] = {"target": [e.target for e in examples]}
        for column, name in enumerate(NAMES.values()):
            columns[f"score_{name}"] = ordered[:, column]
            columns[f"num_tokens_{name}"] = counted[:, column]
        return columns

    def stored_scores(self, rows: pa.Table, examples: Sequence[Example]) -> list[np.ndarray]:
        """See ``RowFormat``; in the data file's order."""
        columns = {
            label: rows[f"score_{name}"].to_numpy(zero_copy_only=False)
            for label, name in NAMES.items()
        }
        return [np.asarray([columns[x][n] for x in e.labels]) for n, e in enumerate(examples)]

    def is_finite(self, rows: pa.Table) -> np.ndarray:
        """See ``RowFormat``."""
        scores = [rows[f"score_{name}"].to_numpy() for name in NAMES.values()]
        finite: np.ndarray = np.isfinite(np.column_stack(scores)).all(axis=1)
        return finite
