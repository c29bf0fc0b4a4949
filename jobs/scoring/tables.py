"""Layout and columns of what a sweep leaves beside rows (a contract: other tools read them)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.scoring.groups import Group, ScoredExample, quoted
from steering_core.anisotropy import StateSums
from steering_core.nulls import NULLS, Null
from steering_core.pooled import PooledStates
from steering_core.vectors import FoldSums, StreamSums

Sides = tuple[str, str]
"""What the columns of pooled states are called: those that vectors point from, and to."""

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


def states_schema(sides: Sides) -> pa.Schema:
    """Columns of ``states``: pooled states [d_model] of each example of one task at each layer."""
    return pa.schema(
        [
            ("layer", pa.int32()),
            ("fold", pa.int32()),
            ("example_id", pa.string()),
            *((name, pa.list_(pa.float32())) for name in sides),
        ]
    )


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


SIDE_EFFECTS, SIDE_EFFECTS_BASELINE = "side_effects", "side_effects_baseline"
SIDE_EFFECTS_PROMPTS, PROMPTS, TRANSFER = "side_effects_prompts", "prompts", "transfer"
SIDE_FOLDERS = (SIDE_EFFECTS, SIDE_EFFECTS_BASELINE, SIDE_EFFECTS_PROMPTS, PROMPTS, TRANSFER)
"""Folders of rows that no vector is fitted to: other data, and the sweep's own data under prompts
or under the vectors of another group."""


class SideTable(NamedTuple):
    """A table of side effects.

    Attributes:
        set: the data set that is measured; empty: the sweep's own data.
        of: pairs of axis and value: the group of the sweep's own data that is measured, if that is
            another one than the task's.
        prompt: the prompt that steers, if one does.
    """

    set: str = ""
    of: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    is_steered: bool = False

    def __str__(self) -> str:
        if self.of:
            return "/".join([TRANSFER, *(f"of_{axis}={quoted(value)}" for axis, value in self.of)])
        if not self.set:
            return f"{PROMPTS}/prompt={self.prompt}"
        if self.prompt:
            return f"{SIDE_EFFECTS_PROMPTS}/set={self.set}/prompt={self.prompt}"
        return f"{SIDE_EFFECTS if self.is_steered else SIDE_EFFECTS_BASELINE}/set={self.set}"

    @property
    def key(self) -> tuple[str, ...]:
        """The values of ``of``."""
        return tuple(value for _, value in self.of)


@cache  # asked for by each of a plan's tasks
def side_table(table: str) -> SideTable | None:
    """What a table's name says of side effects; None for any other table."""
    folder, *parts = table.split("/")
    if folder not in SIDE_FOLDERS:
        return None
    pairs = [part.partition("=")[::2] for part in parts]
    if folder == TRANSFER:
        of = tuple((axis.removeprefix("of_"), unquote(value)) for axis, value in pairs)
        return SideTable(of=of, is_steered=True)
    named = dict(pairs)
    is_steered = folder == SIDE_EFFECTS
    return SideTable(named.get("set", ""), (), named.get("prompt", ""), is_steered)


def is_steered_table(table: str) -> bool:
    """Whether a table holds rows that vectors steer."""
    side = side_table(table)
    if side is not None:
        return side.is_steered
    return table in (STEERED, HELD_OUT) or null_table(table) is not None


def holds_rows(table: str) -> bool:
    """Whether a table holds scores, and not what vectors are fitted from."""
    return table == "baseline" or side_table(table) is not None or is_steered_table(table)


def vectors_key(group: Group, table: str = STEERED) -> str:
    """Storage key of the vectors of a group that steer the rows of a table."""
    folder = {STEERED: "vectors"}.get(table, f"vectors/{table.removeprefix('nulls/')}")
    path = "/".join(quoted(name) for name in (group.model, *group.key))
    return f"{folder}/{path}.safetensors"


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
    examples: Sequence[ScoredExample], folds: Sequence[int], pooled: PooledStates, sides: Sides
) -> pa.Table:
    """The ``states`` table of one task, ordered by layer, then example."""
    num_layers = len(pooled.layers)
    columns = {
        "layer": np.repeat(np.asarray(pooled.layers, np.int32), len(examples)),
        "fold": np.tile(np.asarray(folds, np.int32), num_layers),
        "example_id": [e.example_id for e in examples] * num_layers,
        **dict(zip(sides, map(_vectors_column, pooled.states), strict=True)),
    }
    return pa.table(columns, schema=states_schema(sides))


class LayerStates(NamedTuple):
    """Pooled states [N, d_model] float32 of both sides of N examples at one layer."""

    example_ids: list[str]
    positive: np.ndarray
    negative: np.ndarray


def layer_states(table: pa.Table, layer: int) -> LayerStates:
    """The states of one layer in a ``states`` table, in its order."""
    rows = table.filter(pc.equal(table["layer"], layer))
    negative, positive = (
        rows[name].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        for name in table.column_names[-2:]
    )
    return LayerStates(rows["example_id"].to_pylist(), positive, negative)


def _vectors_column(vectors: np.ndarray) -> pa.ListArray:
    """Vectors [..., d_model], one to a row."""
    offsets = np.arange(0, vectors.size + 1, vectors.shape[-1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, vectors.reshape(-1))
