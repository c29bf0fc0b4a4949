"""How the engine's cost grows: per cell as coefficients are added, in all as examples are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.bench.subject import Subject
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell
from steering_core.timing import seconds

_NUM_COEFFS = (1, 2, 4, 8)
_TIMES = (1, 2, 4)


@dataclass(frozen=True)
class Scaling:
    """Best of two runs of the engine each.

    Attributes:
        seconds_per_row_cell: by number of coefficients at each layer.
        seconds_by_rows: by number of examples, one coefficient at each layer.
    """

    num_rows: int
    seconds_per_row_cell: dict[int, float]
    seconds_by_rows: dict[int, float]


def measure_scaling(
    subject: Subject,
    rows: Sequence[EncodedExample],
    tokens: int,
    rows_cells_per_s: float,
    budget_s: float,
) -> Scaling:
    """Both tables, on as many of the rows as about ``budget_s`` seconds allow.

    Args:
        rows: by length; those taken are evenly spread over it.
        rows_cells_per_s: the engine's rate, for planning.
    """
    device = subject.model.device
    layers = list(dict.fromkeys(cell.layer for cell in subject.cells))
    coeff = subject.cells[0].coeff

    def took(some: Sequence[EncodedExample], num_coeffs: int) -> float:
        cells = [Cell(layer, coeff * (1 + k)) for layer in layers for k in range(num_coeffs)]
        run = subject.engine.steered
        return min(seconds(lambda: run(some, tokens, cells, subject.vectors), device) for _ in "ab")

    per_row_s = 2 * len(layers) / rows_cells_per_s
    most = int(budget_s / (per_row_s * (sum(_NUM_COEFFS) + sum(_TIMES))))
    num = min(len(rows), max(2, most))
    picked = [rows[i * len(rows) // num] for i in range(num)]
    # The same rows again: N, 2N and 4N rows with the same lengths.
    return Scaling(
        num_rows=num,
        seconds_per_row_cell={k: took(picked, k) / (num * len(layers) * k) for k in _NUM_COEFFS},
        seconds_by_rows={n * num: took(picked * n, 1) for n in _TIMES},
    )
