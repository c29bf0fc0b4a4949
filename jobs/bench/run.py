"""One bench: the plain loop, plain hooks in batches, and the engine, in turn, on the same rows."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

from jobs.bench import loops
from jobs.bench.counts import counted
from jobs.bench.draw import MATMUL_SHARE, SEARCH_SHARE, draw_rows
from jobs.bench.machine import machine_of
from jobs.bench.measure import matmul_flops_per_s
from jobs.bench.noise import measure_noise, num_changed
from jobs.bench.report import BenchResult, table
from jobs.bench.scaling import Scaling, measure_scaling
from jobs.bench.search import best_engine_tokens, best_plain_batch
from jobs.bench.subject import BenchOptions, Subject, load_subject
from steering_core.encoding import EncodedExample
from steering_core.flops import costs_of, needed_flops, needs_of, plain_flops
from steering_core.packing import batches
from steering_core.tuning import Tuning


def bench(options: BenchOptions, say: Callable[[str], None]) -> BenchResult:
    """Measure, print the table, and write the JSON file where one is asked for.

    Sets torch's number of threads and random seed.

    Raises:
        UserError: something the user must change; raised before anything is measured.
    """
    options.check()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.disable_progress_bar()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    started = time.monotonic()
    subject = load_subject(options)
    say(f"{subject.model.name} is ready after {time.monotonic() - started:.0f} s; measuring")
    result = measure(subject, options)
    if options.json is not None:
        text = json.dumps(result.as_json(), indent=2) + "\n"
        Path(options.json).expanduser().write_text(text, encoding="utf-8")
    say(table(result))
    return result


def measure(subject: Subject, options: BenchOptions) -> BenchResult:
    """Everything that the bench reports of a loaded subject."""
    device, model, cells = subject.model.device, subject.model, subject.cells
    by_length = sorted(subject.pool, key=lambda row: row.num_packed_tokens)
    search_s = options.seconds * SEARCH_SHARE / 2
    matmul_s = options.seconds * MATMUL_SHARE / 2
    rate = matmul_flops_per_s(device, model.dtype, matmul_s)
    batch, plain_rates = best_plain_batch(subject, by_length, search_s)
    given = options.tokens_per_batch
    tuning = Tuning(given, {}) if given else best_engine_tokens(subject, by_length, search_s)
    tokens = tuning.tokens_per_batch
    draw, repeats = draw_rows(subject, by_length, options, batch, plain_rates[batch], tokens)

    alone = loops.alone(subject, draw, model)
    together = loops.together(subject, draw)
    engine = loops.steered(subject, draw, tokens)
    unsteered = loops.unsteered(subject, draw, tokens)
    unsteered.run()
    # The engine's warm-up meets every batch that will be timed, and its work is counted in it.
    with counted(model.layout) as counts:
        engine.run()
    for _ in range(repeats):
        for loop in (alone, together, engine, unsteered):
            loop.once(device)

    ours_alone, ours_together = engine.scores[draw.alone_pairs], engine.scores[draw.together_pairs]
    rows_alone = [draw.rows[index] for index in draw.alone]
    scaling: Scaling | None = None
    if options.with_scaling:
        scaling = measure_scaling(subject, draw.rows, tokens, engine.per_s, options.seconds)
    return BenchResult(
        machine=machine_of(model, max(rate, matmul_flops_per_s(device, model.dtype, matmul_s))),
        shape=options.shape or (model.name if options.model else "gemma2-mid"),
        protocol=subject.protocol_name,
        data=options.data or "embedded examples",
        is_packed=subject.is_packed,
        layers=tuple(dict.fromkeys(cell.layer for cell in cells)),
        coeffs=options.coeffs,
        num_cells=len(cells),
        repeats=repeats,
        plain=loops.measured_alone(alone, subject, draw),
        plain_batched=loops.measured_together(together, subject, draw),
        engine=engine.measured(len(draw.rows), counts.block_tokens, counts.head_tokens),
        unsteered_rows_per_s=unsteered.per_s,
        plain_rows_per_batch=batch,
        plain_batch_rates=plain_rates,
        engine_tokens_per_batch=tokens,
        engine_token_rates=tuning.rows_per_s,
        engine_padding_share=_padding_share(draw.rows, tokens, subject.is_packed),
        needed_flops_per_row_cell=_needed(subject, draw.rows),
        plain_flops_per_row_cell=_dense(subject, rows_alone),
        plain_gap=_gap(alone.scores, ours_alone),
        plain_batched_gap=_gap(together.scores, ours_together),
        steering_effect=_gap(engine.scores, unsteered.scores[None]),
        changed_choices=num_changed(alone.scores, ours_alone),
        noise=measure_noise(subject, draw, alone.scores, ours_alone),
        scaling=scaling,
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
    return float(np.nanmax(np.abs(a - b)))
