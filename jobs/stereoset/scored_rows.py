"""Rows of an output as arrays: each group's baseline, and its steered cells beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.errors import UserActionError
from cluster.parts import read_part
from cluster.storage import Storage
from cluster.threads import thread_pool
from jobs.stereoset.inventory import Inventory
from jobs.stereoset.plan import Group
from jobs.stereoset.tables import steered_table
from steering_core.nulls import Null
from steering_core.stereoset import LABELS

SCORE_COLUMNS = [f"score_{label.replace('-', '_')}" for label in LABELS]
CellKey = tuple[int, float]
"""A layer and a coefficient."""
_READERS = 8


@dataclass(frozen=True)
class ScoredRows:
    """Aligned rows of some examples: ids and targets [N], scores [N, 3], choices [N].

    Scores and choices are in the order of ``LABELS``; -1 is no choice.
    """

    example_ids: np.ndarray
    targets: np.ndarray
    scores: np.ndarray
    choices: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> ScoredRows:
        """The rows of a baseline table, or of one cell of a steered one."""
        index = {label: number for number, label in enumerate(LABELS)}
        return cls(
            example_ids=np.asarray(table["example_id"].to_pylist()),
            targets=np.asarray(table["target"].to_pylist()),
            scores=np.column_stack([table[name].to_numpy() for name in SCORE_COLUMNS]),
            choices=np.asarray([index.get(c, -1) for c in table["choice"].to_pylist()]),
        )

    @classmethod
    def joined(cls, parts: list[ScoredRows]) -> ScoredRows:
        """The rows of all parts, in their order."""
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("example_ids", "targets", "scores", "choices")
            )
        )

    @property
    def num_non_finite(self) -> int:
        """Rows with a score that is not finite."""
        return int((~np.isfinite(self.scores)).any(axis=1).sum())


@dataclass(frozen=True)
class GroupRows:
    """What an output holds of a group.

    Attributes:
        before: baseline rows.
        after: by cell, steered rows of the same examples in the same order; complete cells only.
    """

    group: Group
    before: ScoredRows
    after: Mapping[CellKey, ScoredRows]


def complete_groups(
    storage: Storage, inventory: Inventory, null: Null | None = None
) -> Iterator[GroupRows]:
    """Every group whose baseline is complete, one held at a time.

    Args:
        null: take the rows steered with a null's vectors instead.

    Raises:
        UserActionError: a part that holds other examples than its baseline.
        CorruptPartError: a damaged part.
    """
    num_shards: dict[Group, int] = defaultdict(int)
    for task in inventory.planned:
        num_shards[task.group] += "baseline" in task.tables
    for group in sorted(num_shards):
        shards = {
            shard: ScoredRows.of(table)
            for (shard, _), table in _tables(storage, inventory, group, "baseline")
        }
        if len(shards) < num_shards[group]:
            continue
        cells: dict[CellKey, dict[int, ScoredRows]] = defaultdict(dict)
        for (shard, key), table in _tables(storage, inventory, group, steered_table(null)):
            for cell, rows in _split(table):
                if not np.array_equal(rows.example_ids, shards[shard].example_ids):
                    raise UserActionError(
                        f"{storage.uri_of(key)} holds other examples than its baseline; delete it "
                        "to have it recomputed"
                    )
                cells[cell][shard] = rows
        order = sorted(shards)
        yield GroupRows(
            group=group,
            before=ScoredRows.joined([shards[shard] for shard in order]),
            after={
                cell: ScoredRows.joined([cells[cell][shard] for shard in order])
                for cell in sorted(cells)
                if len(cells[cell]) == len(order)
            },
        )


def _tables(
    storage: Storage, inventory: Inventory, group: Group, table: str
) -> Iterator[tuple[tuple[int, str], pa.Table]]:
    """((shard, storage key), table) of each part of a group that is done."""
    parts = inventory.parts_done(table, group)
    with thread_pool(_READERS) as pool:
        tables = pool.imap(lambda part: read_part(storage, part[2], part[1]), parts)
        for (task, _, key), found in zip(parts, tables, strict=True):
            yield (task.shard, key), found


def _split(table: pa.Table) -> Iterator[tuple[CellKey, ScoredRows]]:
    """The cells of a steered part, which stand one behind the other."""
    layers, coeffs = table["layer"].to_numpy(), table["coeff"].to_numpy()
    starts = np.flatnonzero((np.diff(layers) != 0) | (np.diff(coeffs) != 0)) + 1
    for low, high in zip([0, *starts], [*starts, table.num_rows], strict=True):
        cell = int(layers[low]), float(coeffs[low])
        yield cell, ScoredRows.of(table.slice(low, high - low))
