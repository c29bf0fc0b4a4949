"""The ways to score that are held against each other: what each runs, and what was seen of it.

Shapes: C cells, N rows, P pairs of a cell and a row.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from jobs.bench.draw import Draw
from jobs.bench.plain import batched, num_positions_batched, num_positions_one_by_one, one_by_one
from jobs.bench.subject import Subject
from steering_core.memory_gauges import peak_memory_bytes, reset_peak_memory
from steering_core.models import LoadedModel
from steering_core.scoring import padded
from steering_core.timing import seconds


@dataclass(frozen=True)
class Loop:
    """One way to score, measured.

    Attributes:
        num_rows, num_rows_cells: distinct rows, and (row, cell) pairs, of one repeat.
        took_s: wall time of each repeat; the rate is that of the median.
        block_tokens_per_row_cell: positions times blocks that they went through, padding included.
        head_tokens_per_row_cell: positions that went through the head.
        peak_memory_bytes: CUDA: most allocated; else most resident in the process, all included.
    """

    rows_cells_per_s: float
    num_rows: int
    num_rows_cells: int
    took_s: tuple[float, ...]
    block_tokens_per_row_cell: float
    head_tokens_per_row_cell: float
    peak_memory_bytes: int


@dataclass
class Timed:
    """One loop while it is measured.

    Attributes:
        work: gives scores [..., C] of its ``num_pairs`` (row, cell) pairs.
        scores: those of the last run.
    """

    work: Callable[[], np.ndarray]
    num_pairs: int
    took_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))

    def once(self, device: torch.device) -> None:
        """Run it once, timed."""
        reset_peak_memory(device)
        self.took_s.append(seconds(self.run, device))
        self.peak_bytes = max(self.peak_bytes, peak_memory_bytes(device))

    def run(self) -> None:
        """Run it once."""
        self.scores = self.work()

    @property
    def per_s(self) -> float:
        """Pairs per second, of the median run."""
        return self.num_pairs / statistics.median(self.took_s)

    def measured(self, num_rows: int, block_tokens: int, head_tokens: int) -> Loop:
        """What came of it, with the tokens of one run."""
        return Loop(
            rows_cells_per_s=self.per_s,
            num_rows=num_rows,
            num_rows_cells=self.num_pairs,
            took_s=tuple(self.took_s),
            block_tokens_per_row_cell=block_tokens / self.num_pairs,
            head_tokens_per_row_cell=head_tokens / self.num_pairs,
            peak_memory_bytes=self.peak_bytes,
        )


def alone(subject: Subject, draw: Draw, model: LoadedModel) -> Timed:
    """The plain loop over ``draw.alone_pairs``; scores [P, C].

    Args:
        model: the subject's, or its weights in another dtype.
    """

    def work() -> np.ndarray:
        pairs = zip(*draw.alone_pairs, strict=True)
        return padded(
            [one_by_one(model, draw.rows[n], subject.steering(subject.cells[c])) for c, n in pairs],
            draw.num_candidates,
        )

    return Timed(work, len(draw.alone))


def together(subject: Subject, draw: Draw) -> Timed:
    """Plain hooks in batches over ``draw.together_pairs``; scores [P, C]."""

    def work() -> np.ndarray:
        scores: list[np.ndarray] = []
        for turn, indices in enumerate(draw.together):
            steering = subject.steering(subject.cells[turn % draw.num_cells])
            rows = [draw.rows[n] for n in indices]
            scores += [*batched(subject.model, rows, steering)]
        return padded(scores, draw.num_candidates)

    return Timed(work, sum(map(len, draw.together)))


def steered(subject: Subject, draw: Draw, tokens: int) -> Timed:
    """The engine over every cell of every row; scores [cells, N, C]."""

    def work() -> np.ndarray:
        found = subject.engine.steered(draw.rows, tokens, subject.cells, subject.vectors)
        return np.stack([of_cell.scores for of_cell in found])

    return Timed(work, len(draw.rows) * draw.num_cells)


def unsteered(subject: Subject, draw: Draw, tokens: int) -> Timed:
    """The engine's unsteered pass; scores [N, C]."""
    return Timed(lambda: subject.engine.baseline(draw.rows, tokens)[0].scores, len(draw.rows))


def measured_alone(loop: Timed, subject: Subject, draw: Draw) -> Loop:
    """What came of ``alone``."""
    positions = num_positions_one_by_one([draw.rows[n] for n in draw.alone])
    return loop.measured(len(draw.alone), positions * subject.model.layout.num_blocks, positions)


def measured_together(loop: Timed, subject: Subject, draw: Draw) -> Loop:
    """What came of ``together``."""
    positions = sum(num_positions_batched([draw.rows[n] for n in b]) for b in draw.together)
    return loop.measured(loop.num_pairs, positions * subject.model.layout.num_blocks, positions)
