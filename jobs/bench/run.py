"""One bench: the plain loop, plain hooks in batches, and the engine, in turn, on the same rows."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers

from jobs.bench.counts import counted
from jobs.bench.flops import costs_of, needed_flops, needs_of, plain_flops
from jobs.bench.measure import (
    matmul_flops_per_s,
    peak_memory_bytes,
    reset_peak_memory,
)
from jobs.bench.plain import batched, num_positions_batched, num_positions_one_by_one, one_by_one
from jobs.bench.report import BenchResult, Loop, Machine, table
from jobs.bench.scaling import Scaling, measure_scaling
from jobs.bench.search import best_engine_tokens, best_plain_batch
from jobs.bench.subject import BenchOptions, Subject, load_subject
from steering_core.encoding import EncodedExample
from steering_core.engine import Scores
from steering_core.errors import InputError
from steering_core.packing import batches
from steering_core.timing import seconds
from steering_core.tuning import Tuning

_SEARCH_SHARE, _MATMUL_SHARE = 0.2, 0.05
"""Of the time: finding batch sizes; large matrix products, before and after all else."""
_PLAIN_SHARE, _BATCHED_SHARE = 0.35, 0.25
"""Of the time of one repeat: the two plain loops; the engine has the rest."""
_FEWEST_ROWS, _ROWS_TO_ESTIMATE, _BATCHES_OF_A_GROUP = 4, 8, 4


def bench(options: BenchOptions, say: Callable[[str], None]) -> BenchResult:
    """Measure, print the table, and write the JSON file where one is asked for.

    Sets torch's number of threads and random seed.

    Raises:
        InputError: something the user must change; raised before anything is measured.
    """
    options.check()
    into = None if options.json is None else Path(options.json).expanduser()
    if into is not None and not into.parent.is_dir():
        raise InputError(f"--json {into}: there is no folder {into.parent}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    started = time.monotonic()
    subject = load_subject(options)
    say(f"{subject.model.name} is ready after {time.monotonic() - started:.0f} s; measuring")
    result = measure(subject, options)
    if into is not None:
        into.write_text(json.dumps(result.as_json(), indent=2) + "\n", encoding="utf-8")
    say(table(result))
    return result


@dataclass
class _Timed:
    """One loop: what it runs, how many (row, cell) pairs that is, and what was seen."""

    work: Callable[[], object]
    num_pairs: int
    took_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def once(self, device: torch.device) -> None:
        reset_peak_memory(device)
        self.took_s.append(seconds(self.work, device))
        self.peak_bytes = max(self.peak_bytes, peak_memory_bytes(device))

    @property
    def per_s(self) -> float:
        return self.num_pairs / statistics.median(self.took_s)


@dataclass(frozen=True)
class _Draw:
    """Rows of each loop. A plain loop costs the same whatever the cell, so it takes one cell for a
    row, all cells in turn; the engine takes every cell of every row.

    Attributes:
        rows: by length; what the engine scores. Groups of neighbours in length, some batches
            each, spread over the lengths of the pool: batches are then as dense as those of a
            whole data set, however few rows the time allows.
        alone: indices of the rows that run one by one, evenly spread over the lengths.
        together: batches of indices, evenly spread likewise, neighbours in length.
    """

    rows: Sequence[EncodedExample]
    alone: Sequence[int]
    together: Sequence[Sequence[int]]


def measure(subject: Subject, options: BenchOptions) -> BenchResult:
    """Everything that the bench reports of a loaded subject."""
    device, model, cells = subject.model.device, subject.model, subject.cells
    by_length = sorted(subject.pool, key=lambda row: row.num_packed_tokens)
    search_s = options.seconds * _SEARCH_SHARE / 2
    matmul_s = options.seconds * _MATMUL_SHARE / 2
    rate = matmul_flops_per_s(device, model.dtype, matmul_s)
    batch, plain_rates = best_plain_batch(subject, by_length, search_s)
    given = options.tokens_per_batch
    tuning = Tuning(given, {}) if given else best_engine_tokens(subject, by_length, search_s)
    tokens = tuning.tokens_per_batch
    draw, repeats = _draw(subject, by_length, options, batch, plain_rates[batch], tokens)

    plain_scores = np.full((len(draw.rows), 3), np.nan)
    batched_scores = np.full((len(draw.rows), 3), np.nan)
    engine_scores: list[Scores] = []

    def alone() -> None:
        for turn, index in enumerate(draw.alone):
            steering = subject.steering(cells[turn % len(cells)])
            plain_scores[index] = one_by_one(model, draw.rows[index], steering)

    def together() -> None:
        for turn, indices in enumerate(draw.together):
            steering = subject.steering(cells[turn % len(cells)])
            rows = [draw.rows[index] for index in indices]
            batched_scores[indices] = batched(model, rows, steering)

    def engine() -> None:
        engine_scores[:] = subject.engine.steered(draw.rows, tokens, cells, subject.vectors)

    unsteered, _ = subject.engine.baseline(draw.rows, tokens)
    # The engine's warm-up meets every batch that will be timed, and its work is counted in it.
    with counted(model.layout) as counts:
        engine()
    num_together = sum(map(len, draw.together))
    loops = {
        "plain": _Timed(alone, len(draw.alone)),
        "plain_batched": _Timed(together, num_together),
        "engine": _Timed(engine, len(draw.rows) * len(cells)),
        "unsteered": _Timed(lambda: subject.engine.baseline(draw.rows, tokens), len(draw.rows)),
    }
    for _ in range(repeats):
        for loop in loops.values():
            loop.once(device)

    of_cell = np.stack([scores.scores for scores in engine_scores])
    alone_cell = [turn % len(cells) for turn in range(len(draw.alone))]
    together_cell = [
        turn % len(cells) for turn, indices in enumerate(draw.together) for _ in indices
    ]
    flat = [index for indices in draw.together for index in indices]
    ours_alone, ours_together = of_cell[alone_cell, draw.alone], of_cell[together_cell, flat]
    scaling: Scaling | None = None
    if options.with_scaling:
        per_s = loops["engine"].per_s
        scaling = measure_scaling(subject, draw.rows, tokens, per_s, options.seconds)
    return BenchResult(
        machine=_machine(subject, max(rate, matmul_flops_per_s(device, model.dtype, matmul_s))),
        shape=options.shape or (model.name if options.model else "gemma2-mid"),
        protocol=subject.protocol_name,
        data=options.data or "embedded examples",
        is_packed=subject.is_packed,
        layers=tuple(dict.fromkeys(cell.layer for cell in cells)),
        coeffs=options.coeffs,
        num_cells=len(cells),
        repeats=repeats,
        plain=_plain_loop(loops["plain"], subject, [draw.rows[i] for i in draw.alone]),
        plain_batched=_batched_loop(loops["plain_batched"], subject, draw),
        engine=_loop(loops["engine"], len(draw.rows), counts.block_tokens, counts.head_tokens),
        unsteered_rows_per_s=loops["unsteered"].per_s,
        plain_rows_per_batch=batch,
        plain_batch_rates=plain_rates,
        engine_tokens_per_batch=tokens,
        engine_token_rates=tuning.rows_per_s,
        engine_padding_share=_padding_share(draw.rows, tokens, subject.is_packed),
        needed_flops_per_row_cell=_needed(subject, draw.rows),
        plain_flops_per_row_cell=_dense(subject, [draw.rows[i] for i in draw.alone]),
        plain_gap=_gap(plain_scores[draw.alone], ours_alone),
        plain_batched_gap=_gap(batched_scores[flat], ours_together),
        steering_effect=_gap(of_cell, unsteered.scores[None]),
        changed_choices=int((plain_scores[draw.alone].argmax(1) != ours_alone.argmax(1)).sum()),
        scaling=scaling,
    )


def _draw(
    subject: Subject,
    by_length: Sequence[EncodedExample],
    options: BenchOptions,
    batch: int,
    batched_per_s: float,
    tokens: int,
) -> tuple[_Draw, int]:
    """Rows of each loop within the time, and how often it can be repeated."""
    model, device, cells = subject.model, subject.model.device, subject.cells
    middle, steering = len(by_length) // 2, subject.steering(cells[0])
    row = by_length[middle]
    alone_s = min(seconds(lambda: one_by_one(model, row, steering), device) for _ in "ab")
    per_batch = max(1, tokens // row.num_packed_tokens)
    few = by_length[middle : middle + min(per_batch, _ROWS_TO_ESTIMATE)]
    steered, vectors = subject.engine.steered, subject.vectors
    engine_s = seconds(lambda: steered(few, tokens, cells, vectors), device) / len(few)
    left_s = options.seconds * (1 - _SEARCH_SHARE - _MATMUL_SHARE)
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
    draw = _Draw(
        rows=rows,
        alone=spread(len(rows), num_alone),
        together=[chunks[i] for i in spread(len(chunks), num_batches)],
    )
    expected_s = len(rows) * engine_s + len(draw.alone) * alone_s
    # Where even the fewest rows take too long, one repeat has to do.
    is_slow = expected_s * options.repeats > 2 * left_s and options.rows is None
    return draw, 1 if is_slow else options.repeats


def neighbours(num_all: int, num: int, group: int) -> list[int]:
    """``num`` of 0..num_all-1, ascending: groups of at least ``group`` in a row, evenly spread."""
    num = min(num, num_all)
    group = min(group, num)
    num_groups = max(1, num // group)
    group = -(-num // num_groups)
    num_groups = -(-num // group)
    gap = (num_all - num) / num_groups
    # Before each group goes its share of what is left out, half of it before the first.
    return [int(gap * (index // group + 0.5)) + index for index in range(num)]


def spread(num: int, most: int) -> list[int]:
    """At most ``most`` of 0..num-1, evenly spaced."""
    return sorted({int(i) for i in np.linspace(0, num - 1, min(num, most)).round()})


def _plain_loop(loop: _Timed, subject: Subject, rows: Sequence[EncodedExample]) -> Loop:
    positions = num_positions_one_by_one(rows)
    return _loop(loop, len(rows), positions * subject.model.layout.num_blocks, positions)


def _batched_loop(loop: _Timed, subject: Subject, draw: _Draw) -> Loop:
    positions = sum(num_positions_batched([draw.rows[i] for i in b]) for b in draw.together)
    num_rows = sum(map(len, draw.together))
    return _loop(loop, num_rows, positions * subject.model.layout.num_blocks, positions)


def _loop(loop: _Timed, num_rows: int, block_tokens: int, head_tokens: int) -> Loop:
    return Loop(
        rows_cells_per_s=loop.per_s,
        num_rows=num_rows,
        num_rows_cells=loop.num_pairs,
        took_s=tuple(loop.took_s),
        block_tokens_per_row_cell=block_tokens / loop.num_pairs,
        head_tokens_per_row_cell=head_tokens / loop.num_pairs,
        peak_memory_bytes=loop.peak_bytes,
    )


def _padding_share(rows: Sequence[EncodedExample], tokens: int, is_packed: bool) -> float:
    made = list(batches(rows, tokens, is_packed=is_packed))
    return 1 - sum(b.num_tokens for b in made) / sum(b.input_ids.size for b in made)


def _needed(subject: Subject, rows: Sequence[EncodedExample]) -> float:
    costs = costs_of(subject.model.layout)
    return needed_flops(costs, needs_of(rows), subject.streams) / len(rows)


def _dense(subject: Subject, rows: Sequence[EncodedExample]) -> float:
    lengths = [len(c.token_ids) for row in rows for c in row.candidates]
    return plain_flops(costs_of(subject.model.layout), lengths) / len(rows)


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def _machine(subject: Subject, rate: float) -> Machine:
    device, config = subject.model.device, subject.model.layout.config
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return Machine(
        device=device.type,
        device_name=name,
        dtype=str(subject.model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        attention=str(getattr(config, "_attn_implementation", None)),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        matmul_flops_per_s=rate,
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
