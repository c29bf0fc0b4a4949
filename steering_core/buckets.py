"""Batches of few shapes, for devices that compile a program for each shape that they meet.

A batch is as wide as the next of a few widths (64, 96, 128, 192, 256, ...), has as many rows as the
token limit holds of that width, and reads half of its positions: its width decides all its sizes.
What is missing is filled, with copies of the last row, positions that nobody asked for, and token
0. Nothing of that comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steering_core.encoding import EncodedExample
from steering_core.packing import Batch, group_rows, lay_out, num_sequences, width_of

_NARROWEST = 64


@dataclass(frozen=True, slots=True)
class Buckets:
    """The widths of batches.

    Attributes:
        widest: positions of a model that numbers positions itself, as it does where rows run as
            separate sequences; a width beyond would be beyond the model.
    """

    widest: int | None = None

    def width(self, num_positions: int) -> int:
        """The smallest width that holds so many positions."""
        power = _NARROWEST
        while power < num_positions:
            power *= 2
        between = 3 * power // 4
        width = between if max(num_positions, _NARROWEST) <= between else power
        if self.widest is not None and num_positions <= self.widest:
            return min(width, self.widest)
        return width


def batches_in_buckets(
    rows: Sequence[EncodedExample],
    tokens_per_batch: int,
    buckets: Buckets,
    *,
    is_packed: bool = True,
) -> Iterator[Batch]:
    """As ``packing.batches``, with batches of one shape for each width."""
    widths = [buckets.width(width_of(row, is_packed=is_packed)) for row in rows]
    counts = [num_sequences(row, is_packed=is_packed) for row in rows]
    for group in group_rows(counts, widths, tokens_per_batch):
        width = widths[group[0]]
        num_rows = places(tokens_per_batch, counts[group[0]] * width)
        yield filled(lay_out(rows, group, is_packed=is_packed), num_rows, width)


def places(tokens_per_batch: int, row_size: int) -> int:
    """Rows of a batch that each take up so many positions."""
    return max(1, tokens_per_batch // row_size)


def room_to_read(num_read: int, num_positions: int) -> int:
    """Positions that a batch reads: half of those it has, or all where that is too few."""
    return min(num_positions, _room(num_read, num_positions // 2))


def filled(batch: Batch, num_rows: int, width: int) -> Batch:
    """A batch with as many rows and positions, and with room for what half of them read.

    For more than half there is twice the room.
    """
    num_real, narrow = batch.input_ids.shape
    per_row = batch.sequences_per_row
    index_R = np.arange(per_row * num_rows)
    is_copy_R = index_R >= num_real
    index_R[is_copy_R] = num_real - per_row + index_R[is_copy_R] % per_row
    behind = ((0, 0), (0, width - narrow))

    def wider(values_RS: np.ndarray, fill: int = 0) -> np.ndarray:
        return np.pad(values_RS[index_R], behind, constant_values=fill)

    weights = np.stack([wider(of_label) for of_label in batch.pooling_weights])
    weights[:, is_copy_R] = 0.0
    has_norm = wider(batch.has_norm)
    has_norm[is_copy_R] = False
    read_M = batch.read_at // narrow * width + batch.read_at % narrow
    positions = len(index_R) * width
    num_read = room_to_read(len(read_M), positions)
    spare = np.setdiff1d(np.arange(positions), read_M)[: num_read - len(read_M)]
    read_at = np.union1d(read_M, spare)
    num_tokens = _room(len(batch.token_ids), positions // 2)
    more = (0, num_tokens - len(batch.token_ids))
    return replace(
        batch,
        sequence_row=batch.sequence_row[index_R],
        input_ids=wider(batch.input_ids),
        position_ids=wider(batch.position_ids),
        branch=wider(batch.branch, -1),
        num_question=wider(batch.num_question),
        read_at=read_at,
        token_ids=np.pad(batch.token_ids, more),
        token_slot=np.pad(
            np.searchsorted(read_at, read_M)[batch.token_slot], more, constant_values=num_read - 1
        ),
        pooling_weights=weights,
        has_norm=has_norm,
        is_static=True,
    )


def _room(needed: int, usual: int) -> int:
    while usual < needed:
        usual *= 2
    return usual
