"""The bench's result as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.bench.loops import Loop
from jobs.bench.machine import Machine
from jobs.bench.noise import Noise
from jobs.bench.scaling import Scaling


@dataclass(frozen=True)
class BenchResult:
    """Everything that a bench measured.

    Attributes:
        unsteered_rows_per_s: the engine's unsteered pass: trunk, and head at scored positions.
        plain_batch_rates: rows per second of each batch size (rows) that was tried.
        engine_token_rates: rows per second, one cell, of each batch size (tokens) that was tried.
        engine_padding_share: positions of the engine's batches that hold no token.
        needed_flops_per_row_cell: see ``steering_core.flops``.
        plain_flops_per_row_cell: what the plain loop computes, dense attention and full logits.
        plain_gap, plain_batched_gap: largest difference in nats between the engine's scores and
            those of the plain loops.
        steering_effect: largest change that steering makes to a score: what the gaps are held to.
        changed_choices: rows of the plain loop for which the engine chooses another candidate.
        noise: of a dtype other than float32, where memory holds the weights in both.
    """

    machine: Machine
    shape: str
    protocol: str
    data: str
    is_packed: bool
    layers: tuple[int, ...]
    coeffs: tuple[float, ...]
    num_cells: int
    repeats: int
    plain: Loop
    plain_batched: Loop
    engine: Loop
    unsteered_rows_per_s: float
    plain_rows_per_batch: int
    plain_batch_rates: Mapping[int, float]
    engine_tokens_per_batch: int
    engine_token_rates: Mapping[int, float]
    engine_padding_share: float
    needed_flops_per_row_cell: float
    plain_flops_per_row_cell: float
    plain_gap: float
    plain_batched_gap: float
    steering_effect: float
    changed_choices: int
    noise: Noise | None
    scaling: Scaling | None

    @property
    def needed_flops_per_s(self) -> float:
        """Operations that the task needs, at the engine's rate."""
        return self.needed_flops_per_row_cell * self.engine.rows_cells_per_s

    @property
    def matmul_share(self) -> float:
        """Share of the machine's matrix-product rate that needed operations reach."""
        return self.needed_flops_per_s / self.machine.matmul_flops_per_s

    def as_json(self) -> dict[str, Any]:
        """Plain data: the names other tools rely on at the top, details below them."""
        details = asdict(self)
        machine = details.pop("machine")
        plain, plain_batched, engine = self.plain, self.plain_batched, self.engine
        float32 = None if self.noise is None else self.noise.plain_float32
        return {
            "plain_rows_cells_per_s": plain.rows_cells_per_s,
            "plain_batched_rows_cells_per_s": plain_batched.rows_cells_per_s,
            "plain_float32_rows_cells_per_s": None if float32 is None else float32.rows_cells_per_s,
            "engine_rows_cells_per_s": engine.rows_cells_per_s,
            "engine_vs_plain": engine.rows_cells_per_s / plain.rows_cells_per_s,
            "engine_vs_plain_batched": engine.rows_cells_per_s / plain_batched.rows_cells_per_s,
            "needed_flops_per_s": self.needed_flops_per_s,
            "matmul_share": self.matmul_share,
            "block_tokens_avoided_vs_plain": _avoided(engine, plain),
            "block_tokens_avoided_vs_plain_batched": _avoided(engine, plain_batched),
            **machine,
            **details,
        }


def _avoided(engine: Loop, plain: Loop) -> float:
    """Share of the plain loop's positions times blocks that the engine does not compute."""
    return 1 - engine.block_tokens_per_row_cell / plain.block_tokens_per_row_cell


def table(result: BenchResult) -> str:
    """The result for a reader."""
    machine, engine = result.machine, result.engine
    lines = [
        f"{result.shape}, {machine.dtype}, {machine.device_name} ({machine.device}), "
        f"{machine.threads} threads, torch {machine.torch}, transformers {machine.transformers}, "
        f"{machine.date}",
        f"{result.data}, {result.protocol}, {result.num_cells} cells: layers "
        f"{', '.join(map(str, result.layers))}; coefficients "
        f"{', '.join(f'{c:g}' for c in result.coeffs)}; median of {result.repeats}",
        "",
        *grid(
            [
                *("", "rows x cells/s", "engine is", "rows", "tokens x blocks", "head tokens"),
                "peak memory",
            ],
            [
                *_float32_line(result),
                _loop_line("(a) plain loop", result.plain, engine),
                _loop_line(
                    f"(b) plain, {result.plain_rows_per_batch} rows a batch",
                    result.plain_batched,
                    engine,
                ),
                _loop_line("(c) engine", engine, engine),
            ],
        ),
        "(tokens per row and cell, padding included)",
        "",
        f"tokens x blocks avoided: {_avoided(engine, result.plain):.1%} of (a), "
        f"{_avoided(engine, result.plain_batched):.1%} of (b)",
        f"engine's batches: {result.engine_tokens_per_batch} tokens, "
        f"{result.engine_padding_share:.1%} padding, "
        f"{'packed rows' if result.is_packed else 'separate sequences'}",
        f"needed: {result.needed_flops_per_row_cell / 1e9:.3g} GFLOP per row and cell "
        f"(the plain loop computes {result.plain_flops_per_row_cell / 1e9:.3g})",
        f"reached: {result.needed_flops_per_s / 1e9:.4g} needed GFLOP/s, {result.matmul_share:.1%} "
        f"of {machine.matmul_flops_per_s / 1e9:.4g} GFLOP/s in large matrix products",
        f"unsteered pass (trunk and scored positions): {1e3 / result.unsteered_rows_per_s:.3g} ms "
        f"a row; (b) takes {1e3 / result.plain_batched.rows_cells_per_s:.3g} ms a row and cell",
        f"largest difference of scores: {result.plain_gap:.2g} nats to (a), "
        f"{result.plain_batched_gap:.2g} to (b); steering moves them by up to "
        f"{result.steering_effect:.2g}; {result.changed_choices} of {result.plain.num_rows} "
        "choices differ from (a)",
        *_noise_lines(result),
    ]
    return "\n".join([*lines, *_scaling_lines(result.scaling)])


def _float32_line(result: BenchResult) -> list[list[str]]:
    if result.noise is None:
        return []
    return [_loop_line("(a32) plain loop, float32", result.noise.plain_float32, result.engine)]


def _loop_line(name: str, loop: Loop, engine: Loop) -> list[str]:
    return [
        name,
        f"{loop.rows_cells_per_s:.4g}",
        "" if loop is engine else f"{engine.rows_cells_per_s / loop.rows_cells_per_s:.2f} x",
        f"{loop.num_rows}",
        f"{loop.block_tokens_per_row_cell:,.0f}",
        f"{loop.head_tokens_per_row_cell:,.1f}",
        f"{loop.peak_memory_bytes / 2**20:,.0f} MiB",
    ]


def _noise_lines(result: BenchResult) -> list[str]:
    noise = result.noise
    if noise is None:
        return []
    return [
        "",
        f"scores of {result.machine.dtype} against (a32), {noise.num_pairs} rows at a cell each",
        *grid(
            ["", "largest difference", "mean difference", "choices changed"],
            [
                [name, f"{d.largest:.2g} nats", f"{d.mean:.2g} nats", f"{d.changed_choices}"]
                for name, d in (("(a) plain loop", noise.plain), ("(c) engine", noise.engine))
            ],
        ),
    ]


def _scaling_lines(scaling: Scaling | None) -> list[str]:
    if scaling is None:
        return []
    by_coeffs = scaling.seconds_per_row_cell
    by_rows = scaling.seconds_by_rows
    different = scaling.seconds_per_row_by_different
    positions = scaling.seconds_per_row_cell_by_positions
    return [
        "",
        *grid(
            ["coefficients", *map(str, by_coeffs)],
            [["ms per row and cell", *(f"{1e3 * s:.3g}" for s in by_coeffs.values())]],
        ),
        "",
        *grid(
            ["examples", *map(str, by_rows)],
            [
                ["seconds", *(f"{s:.3g}" for s in by_rows.values())],
                ["ms per example", *(f"{1e3 * s / n:.3g}" for n, s in by_rows.items())],
            ],
        ),
        "",
        *grid(
            ["different interventions, a row each", *map(str, different)],
            [["ms per row", *(f"{1e3 * s:.3g}" for s in different.values())]],
        ),
        "",
        *grid(
            ["steered positions", *positions],
            [["ms per row and cell", *(f"{1e3 * s:.3g}" for s in positions.values())]],
        ),
    ]


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns: text left, numbers right; rich is not everywhere this runs."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (header, *rows)
    ]
