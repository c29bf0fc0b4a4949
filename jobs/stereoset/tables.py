"""Layout and columns of what a StereoSet sweep leaves (a contract: other tools read them)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.scoring.groups import Group, quoted
from steering_core.anisotropy import StateSums
from steering_core.engine import Scores
from steering_core.nulls import NULLS, Null
from steering_core.pooled import PooledStates
from steering_core.scoring import Measure, choose
from steering_core.stereoset import LABELS, Example
from steering_core.vectors import FoldSums, StreamSums

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

KL_FIELD = pa.field("kl", pa.float64())
"""A last column of steered rows, if the sweep measures it: a row's mean D_KL(P_steered ||
P_unsteered) over its scored tokens, in nats."""


def rows_schema(measures: Collection[Measure]) -> pa.Schema:
    """Columns of steered rows of which these measures were taken."""
    return ROWS_SCHEMA.append(KL_FIELD) if "kl" in measures else ROWS_SCHEMA


SUMS_SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("fold", pa.int32()),
        ("num_examples", pa.int64()),
        ("total", pa.list_(pa.float64())),
        ("shuffled", pa.list_(pa.float64())),
        ("num_states", pa.int64()),
        ("norm_total", pa.float64()),
        ("state_total", pa.list_(pa.float64())),
        ("unit_state_total", pa.list_(pa.float64())),
        ("stream_norm_total", pa.float64()),
        ("num_positions", pa.int64()),
    ]
)
"""Columns of ``sums``: float64 sums [d_model] of one task: of pooled differences, with labels as
they are and shuffled; of pooled states, and of these divided by their norms. The last two are of
the stream where a layer is steered, over the examples of all folds, so they are the same in each
row of a layer."""

STATES_SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("fold", pa.int32()),
        ("example_id", pa.string()),
        ("stereotype", pa.list_(pa.float32())),
        ("anti_stereotype", pa.list_(pa.float32())),
    ]
)
"""Columns of ``states``: pooled states [d_model] of each example of one task at each layer."""


def part_key(table: str, group: Group, task_id: str) -> str:
    """Storage key of a task's part of one table, hive-partitioned."""
    return f"{table}/{group.folder}/{task_id}.parquet"


STEERED, HELD_OUT = "steered", "held_out"
"""Tables of rows steered with the group's own vectors: the main ones; cross-fitted ones beside
in-sample ones."""


HELD_OUT_SUMS = "held_out_sums"
"""Sums by held-out fold. They stand in a table of their own, so that ``sums``, and all that is
fitted from it, is the same with held-out vectors and without."""


FITS = "fits"
"""Vectors as fit tasks leave them; the driver makes the group's files of these."""


class NullTable(NamedTuple):
    """A table of rows that are steered with vectors that mean nothing.

    Attributes:
        vectors: the fitted vectors that they stand for: ``in_sample``, ``held_out`` or ``file``.
        draw: number of the draw, from 0 on.
        is_old: the one draw of an output that an earlier version began. It keeps its place, its
            seeds and, for ``random``, another direction for each fold.
    """

    null: Null
    vectors: str
    draw: int
    is_old: bool = False

    def __str__(self) -> str:
        table = f"nulls/null={self.null}"
        return table if self.is_old else f"{table}/vectors={self.vectors}/draw={self.draw}"


_NULL_TABLE = re.compile(r"nulls/null=(\w+)(?:/vectors=(\w+)/draw=(\d+))?")


@cache  # asked for by each of a plan's tasks
def null_table(table: str) -> NullTable | None:
    """What a table's name says of the null that steered its rows; None for any other table."""
    match = _NULL_TABLE.fullmatch(table)
    if match is None or match[1] not in NULLS:
        return None
    if match[2] is None:
        return NullTable(match[1], "", 0, is_old=True)
    return NullTable(match[1], match[2], int(match[3]))


def is_steered_table(table: str) -> bool:
    """Whether a table holds steered rows."""
    return table in (STEERED, HELD_OUT) or null_table(table) is not None


def vectors_key(group: Group, table: str = STEERED) -> str:
    """Storage key of the vectors of a group that steer the rows of a table."""
    folder = {STEERED: "vectors"}.get(table, f"vectors/{table.removeprefix('nulls/')}")
    path = "/".join(quoted(name) for name in (group.model, *group.key))
    return f"{folder}/{path}.safetensors"


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
    table = pa.table({name: columns[name] for name in ROWS_SCHEMA.names}, schema=ROWS_SCHEMA)
    return table if scores.kl is None else table.append_column(KL_FIELD, pa.array(scores.kl))


def stored_scores(rows: pa.Table, examples: Sequence[Example]) -> np.ndarray:
    """Scores [N, 3] of stored rows in the data file's order, the inverse of ``rows_table``."""
    columns = {
        label: rows[f"score_{label.replace('-', '_')}"].to_numpy(zero_copy_only=False)
        for label in LABELS
    }
    return np.asarray([[columns[x][n] for x in e.labels] for n, e in enumerate(examples)])


def sums_table(sums: Sequence[FoldSums]) -> pa.Table:
    """The ``sums`` table of one task."""
    return pa.Table.from_pylist([_sums_row(entry) for entry in sums], schema=SUMS_SCHEMA)


def _sums_row(entry: FoldSums) -> dict[str, object]:
    row: dict[str, object] = {
        "layer": entry.layer,
        "fold": entry.fold,
        "num_examples": entry.num_examples,
        "total": entry.total,
        "shuffled": entry.shuffled,
    }
    if entry.states is not None:
        row |= {
            "num_states": entry.states.num_states,
            "norm_total": entry.states.norm_total,
            "state_total": entry.states.total,
            "unit_state_total": entry.states.unit_total,
        }
    if entry.stream is not None:
        row |= {
            "stream_norm_total": entry.stream.norm_total,
            "num_positions": entry.stream.num_positions,
        }
    return row


def fold_sums(table: pa.Table) -> list[FoldSums]:
    """The sums in a ``sums`` table, in its order."""
    return [
        FoldSums(
            row["layer"],
            row["fold"],
            np.asarray(row["total"]),
            row["num_examples"],
            # Absent from outputs that are older than these columns.
            None if row.get("shuffled") is None else np.asarray(row["shuffled"]),
            _state_sums(row),
            _stream_sums(row),
        )
        for row in table.to_pylist()
    ]


def _state_sums(row: Mapping[str, Any]) -> StateSums | None:
    if row.get("num_states") is None:
        return None
    return StateSums(
        np.asarray(row["state_total"]),
        np.asarray(row["unit_state_total"]),
        row["norm_total"],
        row["num_states"],
    )


def _stream_sums(row: Mapping[str, Any]) -> StreamSums | None:
    if row.get("num_positions") is None:  # older outputs have none
        return None
    return StreamSums(row["stream_norm_total"], row["num_positions"])


def states_table(
    examples: Sequence[Example], folds: Sequence[int], pooled: PooledStates
) -> pa.Table:
    """The ``states`` table of one task, ordered by layer, then example."""
    num_layers = len(pooled.layers)
    stereotype, anti_stereotype = (_vectors_column(states) for states in pooled.states)
    return pa.table(
        {
            "layer": np.repeat(np.asarray(pooled.layers, np.int32), len(examples)),
            "fold": np.tile(np.asarray(folds, np.int32), num_layers),
            "example_id": [e.example_id for e in examples] * num_layers,
            "stereotype": stereotype,
            "anti_stereotype": anti_stereotype,
        },
        schema=STATES_SCHEMA,
    )


class LayerStates(NamedTuple):
    """Pooled states [N, d_model] float32 of both candidates of N examples at one layer."""

    example_ids: list[str]
    anti: np.ndarray
    stereotype: np.ndarray


def layer_states(table: pa.Table, layer: int) -> LayerStates:
    """The states of one layer in a ``states`` table, in its order."""
    rows = table.filter(pc.equal(table["layer"], layer))
    anti, stereotype = (
        rows[name].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        for name in ("anti_stereotype", "stereotype")
    )
    return LayerStates(rows["example_id"].to_pylist(), anti, stereotype)


def _vectors_column(vectors: np.ndarray) -> pa.ListArray:
    """Vectors [..., d_model], one to a row."""
    offsets = np.arange(0, vectors.size + 1, vectors.shape[-1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, vectors.reshape(-1))
