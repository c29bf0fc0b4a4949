"""What scoring rows comes to, counted without running it: passes, and positions x blocks.

One position through one block is 1, padding included. A test holds it to what goes through the
attention of the blocks when an engine runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from steering_core.buckets import Buckets, places, room_to_read
from steering_core.encoding import EncodedExample
from steering_core.flops import NO_NEEDS, RowNeeds, needs_of_row
from steering_core.hook_points import HookPoint
from steering_core.packing import group_rows, lay_out, room_behind
from steering_core.prefix_reuse import steered_and_behind
from steering_core.protocol import Protocol
from steering_core.scoring import Measure
from steering_core.trunk import fork_point, num_trunk_blocks


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Tokens of one row: all that counting needs of it.

    Attributes:
        num_packed: of the row as a tree.
        lengths: of its sequences, one for each candidate.
        num_behind: of the tree from the first steered one on; all, where the question is steered.
        needs: what its scores depend on.
        needs_behind: the part of it from the first steered token on.
    """

    num_packed: int
    lengths: tuple[int, ...]
    num_behind: int
    needs: RowNeeds
    needs_behind: RowNeeds

    @property
    def longest(self) -> int:
        """Tokens of its longest sequence."""
        return max(self.lengths)


def counts_of(row: EncodedExample, protocol: Protocol) -> RowCounts:
    """The counts of an encoded row."""
    num_packed, needs = row.num_packed_tokens, needs_of_row(row)
    num_behind, behind = num_packed, needs
    if protocol.leaves_prefix_alone:
        num_behind = steered_and_behind(lay_out([row], [0]), protocol.positions).shape[1]
        behind = needs_of_row(row, since=num_packed - num_behind)
    lengths = tuple(len(c.token_ids) for c in row.candidates)
    return RowCounts(num_packed, lengths, num_behind, needs, behind)


@dataclass(frozen=True, slots=True)
class Batching:
    """How an engine cuts rows into batches, see ``Engine``."""

    tokens_per_batch: int
    is_packed: bool = True
    reuses_prefix: bool = False
    buckets: Buckets | None = None


@dataclass(frozen=True, slots=True)
class BatchShape:
    """Sizes of one batch: sequences, positions of each, distinct positions read."""

    num_sequences: int
    num_positions: int
    num_read: int
    num_behind: int
    """Positions of each sequence that a fork computes."""

    @property
    def num_tokens(self) -> int:
        """Positions of the batch, padding included."""
        return self.num_sequences * self.num_positions


@dataclass(frozen=True, slots=True)
class Work:
    """Passes and what goes through the blocks in them.

    Attributes:
        num_trunks: unsteered passes, one for each batch.
        num_forks: passes of the blocks above a hook point, one for each batch and cell.
        block_tokens: positions x blocks of all of them.
    """

    num_trunks: int = 0
    num_forks: int = 0
    block_tokens: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.num_trunks + other.num_trunks,
            self.num_forks + other.num_forks,
            self.block_tokens + other.block_tokens,
        )


def batch_shapes(rows: Sequence[RowCounts], batching: Batching) -> list[BatchShape]:
    """The batches that an engine makes of the rows of a task."""
    counts = [1 if batching.is_packed else len(row.lengths) for row in rows]
    widths = [row.num_packed if batching.is_packed else row.longest for row in rows]
    buckets = batching.buckets
    if buckets is not None:
        widths = [buckets.width(width) for width in widths]
    shapes = []
    for group in group_rows(counts, widths, batching.tokens_per_batch):
        per_row, width, num_rows = counts[group[0]], widths[group[0]], len(group)
        behind = max(rows[row].num_behind for row in group) if batching.reuses_prefix else width
        num_read = sum(rows[row].needs.num_read for row in group)
        if buckets is not None:
            num_rows = places(batching.tokens_per_batch, per_row * width)
            num_read = room_to_read(num_read, num_rows * per_row * width)
            behind = room_behind(behind, width)
        shapes.append(BatchShape(per_row * num_rows, width, num_read, behind))
    return shapes


def baseline_work(
    batches: Sequence[BatchShape], num_blocks: int, read: Collection[HookPoint]
) -> Work:
    """Of ``Engine.baseline``: a trunk, and the last block at its end.

    Args:
        read: hook points whose states are pooled, or whose norms are measured.
    """
    keep = {HookPoint(num_blocks - 1, "resid_pre"), *read}
    blocks = num_trunk_blocks(keep) + 1
    return Work(len(batches), 0, blocks * sum(batch.num_tokens for batch in batches))


def steered_work(
    batches: Sequence[BatchShape],
    num_blocks: int,
    points: Sequence[HookPoint],
    *,
    reuses_prefix: bool = False,
    measures: Collection[Measure] = (),
) -> Work:
    """Of ``Engine.steered``: a trunk, and a fork of it for each cell.

    Args:
        points: the steered hook point of each cell.
        measures: as ``Engine``'s; with ``kl`` the trunk runs all blocks.
    """
    starts = [fork_point(point, num_blocks) for point in points]
    forked = sum(num_blocks - start.block for start in starts)
    is_whole = reuses_prefix or "kl" in measures
    trunk = num_blocks if is_whole else num_trunk_blocks(set(starts))
    block_tokens = sum(
        trunk * b.num_tokens + forked * b.num_sequences * b.num_behind for b in batches
    )
    return Work(len(batches), len(batches) * len(points), block_tokens)


def plain_block_tokens(rows: Sequence[RowCounts], num_blocks: int) -> int:
    """Positions x blocks of a loop over all sequences of the rows, for one cell or none."""
    return num_blocks * sum(sum(row.lengths) for row in rows)


def total_needs(rows: Sequence[RowCounts]) -> RowNeeds:
    """What the scores of these rows depend on, together."""
    return sum((row.needs for row in rows), NO_NEEDS)


def total_needs_behind(rows: Sequence[RowCounts]) -> RowNeeds:
    """The part of it from the first steered tokens on."""
    return sum((row.needs_behind for row in rows), NO_NEEDS)
