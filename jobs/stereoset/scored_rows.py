"""Rows of an output as arrays: a shard's baseline, and its steered cells beside it.

Nothing here holds more than a few parts at a time: a sweep may have more rows than fit in memory.
Processes that only add up rows import this, so it loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.parts import read_part
from cluster.storage import Storage
from cluster.threads import thread_pool
from steering_core.nulls import label_signs
from steering_core.stereoset import LABELS
from steersweep.errors import UserError

SCORE_COLUMNS = [f"score_{label.replace('-', '_')}" for label in LABELS]
TOKEN_COLUMNS = [f"num_tokens_{label.replace('-', '_')}" for label in LABELS]
KL_COLUMN = "kl"
"""Only in rows whose sweep measured it."""
CellKey = tuple[int, float]
"""A layer and a coefficient."""
READERS = 8
"""Parts that are read at a time, unless several processes share the machine."""


@dataclass(frozen=True)
class ScoredRows:
    """Rows of some examples: ids and targets [N], scores [N, 3], choices [N].

    Scores and choices are in the order of ``LABELS``; -1 is no choice.
    """

    example_ids: pa.Array
    targets: np.ndarray
    scores: np.ndarray
    choices: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, label_seed: str | None = None) -> ScoredRows:
        """The rows of a baseline table, or of a steered one.

        Args:
            label_seed: of a draw of shuffled labels, under which the rows are to be read: where
                stereotype and anti-stereotype change places, so do scores and choices.
        """
        choices = pc.fill_null(pc.index_in(table["choice"], pa.array(LABELS)), -1)
        rows = cls(
            example_ids=table["example_id"].combine_chunks(),
            targets=np.asarray(table["target"].to_pylist()),
            scores=np.column_stack([table[name].to_numpy() for name in SCORE_COLUMNS]),
            choices=choices.to_numpy().astype(np.int64),
        )
        return rows if label_seed is None else rows._relabeled(label_seed)

    def _relabeled(self, label_seed: str) -> ScoredRows:
        is_swapped = label_signs(self.example_ids.to_pylist(), label_seed) < 0
        other_of = np.asarray([1, 0, 2, -1])  # the last one is no choice
        return replace(
            self,
            scores=np.where(is_swapped[:, None], self.scores[:, [1, 0, 2]], self.scores),
            choices=np.where(is_swapped, other_of[self.choices], self.choices),
        )


@dataclass(frozen=True)
class Divergences:
    """Mean D_KL(P_steered || P_unsteered) of rows in nats, and the scored tokens of each."""

    nats: np.ndarray
    num_tokens: np.ndarray


@dataclass(frozen=True)
class SteeredRows:
    """The rows of one shard under several cells: scores [C, N, 3], choices [C, N].

    Their examples are those of ``before``, in its order.

    Attributes:
        kl: [C, N], None where it was not measured.
    """

    before: ScoredRows
    cells: tuple[CellKey, ...]
    scores: np.ndarray
    choices: np.ndarray
    kl: Divergences | None = None


@dataclass(frozen=True)
class Part:
    """A part of the rows of one shard that is done."""

    shard: int
    task_id: str
    key: str
    num_rows: int


@dataclass(frozen=True)
class GroupParts:
    """Where the rows of a group are: all that another process needs to add them up.

    Attributes:
        baseline: parts of all unsteered rows.
        steered: the parts of one set of vectors that are there.
        label_seed: see ``ScoredRows.of``.
    """

    split: str
    bias_type: str
    baseline: tuple[Part, ...]
    steered: tuple[Part, ...]
    label_seed: str | None = None

    @property
    def num_rows(self) -> int:
        """Rows that have to be read."""
        return sum(part.num_rows for part in (*self.baseline, *self.steered))


def baseline_shards(
    storage: Storage, parts: GroupParts, readers: int = READERS
) -> dict[int, ScoredRows]:
    """The unsteered rows of a group by shard, in order.

    Raises:
        CorruptPartError: a damaged part.
    """
    found = {
        part.shard: ScoredRows.of(table, parts.label_seed)
        for part, table in _tables(storage, parts.baseline, readers)
    }
    return dict(sorted(found.items()))


def steered_rows(
    storage: Storage,
    parts: GroupParts,
    shards: Mapping[int, ScoredRows],
    readers: int = READERS,
) -> Iterator[SteeredRows]:
    """The steered rows of a group, part by part.

    Args:
        shards: the group's baseline.

    Raises:
        UserError: a part that holds other examples than its baseline.
        CorruptPartError: a damaged part.
    """
    for part, table in _tables(storage, parts.steered, readers):
        before = shards[part.shard]
        num = len(before.example_ids)
        rows = ScoredRows.of(table, parts.label_seed)
        num_cells = table.num_rows // num
        repeated = pa.concat_arrays([before.example_ids] * num_cells)
        if num_cells * num != table.num_rows or not rows.example_ids.equals(repeated):
            raise UserError(
                f"{storage.uri_of(part.key)} holds other examples than its baseline; delete it to "
                "have it recomputed"
            )
        layers, coeffs = table["layer"].to_numpy()[::num], table["coeff"].to_numpy()[::num]
        yield SteeredRows(
            before,
            tuple((int(layer), float(c)) for layer, c in zip(layers, coeffs, strict=True)),
            rows.scores.reshape(num_cells, num, 3),
            rows.choices.reshape(num_cells, num),
            _divergences(table, num_cells, num),
        )


def _divergences(table: pa.Table, num_cells: int, num: int) -> Divergences | None:
    if KL_COLUMN not in table.column_names:
        return None
    num_tokens = np.sum([table[name].to_numpy() for name in TOKEN_COLUMNS], axis=0)
    nats = table[KL_COLUMN].to_numpy()
    return Divergences(nats.reshape(num_cells, num), num_tokens.reshape(num_cells, num))


def _tables(
    storage: Storage, parts: Sequence[Part], readers: int
) -> Iterator[tuple[Part, pa.Table]]:
    with thread_pool(readers) as pool:
        for low in range(0, len(parts), readers):  # a pool would read all of them ahead
            some = parts[low : low + readers]
            tables = pool.imap(lambda part: read_part(storage, part.key, part.task_id), some)
            yield from zip(some, tables, strict=True)
