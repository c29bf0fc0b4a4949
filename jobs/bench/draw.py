"""Which rows each loop scores, and at which cells, within the time that there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.bench.plain import one_by_one
from jobs.bench.subject import BenchOptions, Subject
from steering_core.encoding import EncodedExample
from steering_core.timing import neighbours, seconds, spread

SEARCH_SHARE, MATMUL_SHARE = 0.2, 0.05
"""Of the time: finding batch sizes; large matrix products, before and after all else."""
_PLAIN_SHARE, _BATCHED_SHARE = 0.35, 0.25
"""Of the time of one repeat: the two plain loops; the engine has the rest."""
_FEWEST_ROWS, _ROWS_TO_ESTIMATE, _BATCHES_OF_A_GROUP = 4, 8, 4


@dataclass(frozen=True)
class Draw:
    """Rows of each loop. A plain loop costs the same whatever the cell, so it takes one cell for a
    row, all cells in turn; the engine takes every cell of every row.

    Attributes:
        rows: by length; what the engine scores. Groups of neighbours in length, some batches
            each, spread over the lengths of the pool: batches are then as dense as those of a
            whole data set, however few rows the time allows.
        alone: indices of the rows that run one by one, evenly spread over the lengths.
        together: batches of indices, evenly spread likewise, neighbours in length.
        num_cells: cells that the plain loops take in turn: row by row, and batch by batch.
    """

    rows: Sequence[EncodedExample]
    alone: Sequence[int]
    together: Sequence[Sequence[int]]
    num_cells: int

    @property
    def num_candidates(self) -> int:
        """C: candidates of the row that has most of them."""
        return max(len(row.candidates) for row in self.rows)

    @property
    def alone_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of cell and row, [P] each, of what runs one by one, in that order."""
        return np.arange(len(self.alone)) % self.num_cells, np.asarray(self.alone)

    @property
    def together_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of cell and row, [P] each, of what runs in batches, in that order."""
        turns = np.repeat(np.arange(len(self.together)), [len(batch) for batch in self.together])
        return turns % self.num_cells, np.concatenate([*map(np.asarray, self.together)])


def draw_rows(
    subject: Subject,
    by_length: Sequence[EncodedExample],
    options: BenchOptions,
    batch: int,
    batched_per_s: float,
    tokens: int,
) -> tuple[Draw, int]:
    """Rows of each loop within the time, and how often it can be repeated.

    Args:
        batch: rows of a batch of the plain loop; ``batched_per_s``: how many it scores.
        tokens: of a batch of the engine.
    """
    model, device, cells = subject.model, subject.model.device, subject.cells
    middle, steering = len(by_length) // 2, subject.steering(cells[0])
    row = by_length[middle]
    alone_s = min(seconds(lambda: one_by_one(model, row, steering), device) for _ in "ab")
    per_batch = max(1, tokens // row.num_packed_tokens)
    few = by_length[middle : middle + min(per_batch, _ROWS_TO_ESTIMATE)]
    steered, vectors = subject.engine.steered, subject.vectors
    engine_s = seconds(lambda: steered(few, tokens, cells, vectors), device) / len(few)
    left_s = options.seconds * (1 - SEARCH_SHARE - MATMUL_SHARE)
    # One pass of the engine more than it is timed: its warm-up.
    engine_share = 1 - _PLAIN_SHARE - _BATCHED_SHARE
    per_repeat_s = left_s / (options.repeats + engine_share)
    num = options.rows or max(_FEWEST_ROWS, int(per_repeat_s * engine_share / engine_s))
    num_alone = max(_FEWEST_ROWS, int(per_repeat_s * _PLAIN_SHARE / alone_s))
    num_batches = max(1, int(per_repeat_s * _BATCHED_SHARE * batched_per_s / batch))
    # Long enough that few batches reach from one group into the next.
    group = _BATCHES_OF_A_GROUP * max(per_batch, batch)
    rows = [by_length[index] for index in neighbours(len(by_length), num, group)]
    chunks = [range(low, min(low + batch, len(rows))) for low in range(0, len(rows), batch)]
    draw = Draw(
        rows=rows,
        alone=spread(len(rows), num_alone),
        together=[chunks[i] for i in spread(len(chunks), num_batches)],
        num_cells=len(cells),
    )
    expected_s = len(rows) * engine_s + len(draw.alone) * alone_s
    # Where even the fewest rows take too long, one repeat has to do.
    is_slow = expected_s * options.repeats > 2 * left_s and options.rows is None
    return draw, 1 if is_slow else options.repeats
