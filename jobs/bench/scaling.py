"""How the engine's cost grows, and what does not make it grow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from jobs.bench.subject import Subject
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell
from steering_core.hook_points import SITES, HookPoint
from steering_core.interventions import OPERATIONS, Intervention, Positions
from steering_core.probes import engine_for
from steering_core.protocol import PROTOCOLS
from steering_core.timing import seconds

_NUM_ROUNDS = 3
_NUM_COEFFS = (1, 2, 4, 8)
_TIMES = (1, 2, 4)
_NUM_DIFFERENT = (1, 2, 4, 8, 16)
_POSITIONS: tuple[Positions, ...] = ("all", "candidate", "last")

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Scaling:
    """Best of a few runs of the engine each.

    Attributes:
        seconds_per_row_cell: by number of coefficients at each layer.
        seconds_by_rows: by number of examples, one coefficient at each layer.
        seconds_per_row_by_different: by how many different interventions the rows of a batch are
            steered by, one each (``Engine.side_by_side``).
        seconds_per_row_cell_by_positions: by which positions are steered, one coefficient.
    """

    num_rows: int
    seconds_per_row_cell: dict[int, float]
    seconds_by_rows: dict[int, float]
    seconds_per_row_by_different: dict[int, float]
    seconds_per_row_cell_by_positions: dict[str, float]


def measure_scaling(
    subject: Subject,
    rows: Sequence[EncodedExample],
    tokens: int,
    rows_cells_per_s: float,
    budget_s: float,
) -> Scaling:
    """All tables, on as many of the rows as about ``budget_s`` seconds allow.

    Args:
        rows: by length; those taken are evenly spread over it.
        rows_cells_per_s: the engine's rate, for planning.
    """
    layers = list(dict.fromkeys(cell.layer for cell in subject.cells))
    coeff = subject.cells[0].coeff

    def in_turn(works: Mapping[_Key, Callable[[], object]]) -> dict[_Key, float]:
        """Best seconds of each; in turn, as a machine that slows down slows all of them."""
        rounds = [
            {key: seconds(work, subject.model.device) for key, work in works.items()}
            for _ in range(_NUM_ROUNDS)
        ]
        return {key: min(of[key] for of in rounds) for key in works}

    def steer(some: Sequence[EncodedExample], num_coeffs: int) -> Callable[[], object]:
        # Near each other: far larger ones could cost more for reasons of their own.
        cells = [Cell(layer, coeff * (1 + k / 100)) for layer in layers for k in range(num_coeffs)]
        return lambda: subject.engine.steered(some, tokens, cells, subject.vectors)

    def mix(num_different: int) -> Callable[[], object]:
        different = _different(subject, num_different)
        own = [different[n % num_different] for n in range(len(picked))]
        return lambda: subject.engine.side_by_side(picked, tokens, own)

    def steer_at(positions: Positions) -> Callable[[], object]:
        protocol = replace(PROTOCOLS[subject.protocol_name], positions=positions)
        engine = engine_for(subject.model, protocol)
        cells = [Cell(layer, coeff) for layer in layers]
        return lambda: engine.steered(picked, tokens, cells, subject.vectors)

    passes = sum(_NUM_COEFFS) + sum(_TIMES) + len(_POSITIONS)
    per_row_s = _NUM_ROUNDS * (len(layers) * passes + len(_NUM_DIFFERENT)) / rows_cells_per_s
    num = min(len(rows), max(2, int(budget_s / per_row_s)))
    picked = [rows[i * len(rows) // num] for i in range(num)]
    by_coeffs = in_turn({k: steer(picked, k) for k in _NUM_COEFFS})
    # The same rows again: N, 2N and 4N rows with the same lengths.
    by_rows = in_turn({n * num: steer(picked * n, 1) for n in _TIMES})
    by_different = in_turn({k: mix(k) for k in _NUM_DIFFERENT if k <= num})
    by_positions = in_turn({positions: steer_at(positions) for positions in _POSITIONS})
    return Scaling(
        num_rows=num,
        seconds_per_row_cell={k: s / (num * len(layers) * k) for k, s in by_coeffs.items()},
        seconds_by_rows=by_rows,
        seconds_per_row_by_different={k: s / num for k, s in by_different.items()},
        seconds_per_row_cell_by_positions={
            positions: s / (num * len(layers)) for positions, s in by_positions.items()
        },
    )


def _different(subject: Subject, count: int) -> list[Intervention]:
    """Interventions of which no two share a vector, from the first block up."""
    rng = np.random.default_rng(0)
    width, num_blocks = subject.model.layout.config.hidden_size, subject.model.layout.num_blocks
    has_all_sites = None not in subject.model.layout.outputs
    sites = SITES if has_all_sites else ("resid_pre", "resid_post")
    return [
        Intervention(
            point=HookPoint(num_blocks * k // count, sites[k % len(sites)]),
            vector=rng.normal(size=width).astype(np.float32),
            coeff=1.0 + k / count,
            operation=[*OPERATIONS][k % len(OPERATIONS)],
        )
        for k in range(count)
    ]
