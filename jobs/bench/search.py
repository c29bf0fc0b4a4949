"""The best batch size of the batched plain loop and of the engine, found by trying a few."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch

from jobs.bench.plain import batched, num_positions_batched
from jobs.bench.subject import Subject
from steering_core.encoding import EncodedExample
from steering_core.memory_gauges import available_memory_bytes
from steering_core.out_of_memory import is_out_of_memory
from steering_core.timing import seconds
from steering_core.tuning import Tuning, tune

_PLAIN_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_COPIES_OF_LOGITS = 4
"""Full logits are held this many times at once: product, scaled, capped, and in float32."""
_WORSE = 0.85
_TRIES = 2


def best_plain_batch(
    subject: Subject, rows: Sequence[EncodedExample], budget_s: float
) -> tuple[int, dict[int, float]]:
    """Rows per batch, and the rate in rows per second of each size that was tried.

    Sizes are tried, smallest first, until it gets worse, too large or too late.

    Args:
        rows: by length; sizes are tried on rows of middle length.
    """
    device, steering = subject.model.device, subject.steering(subject.cells[0])
    vocab = int(subject.model.layout.config.vocab_size)
    limit = available_memory_bytes(device) // 2
    rates: dict[int, float] = {}
    started = time.monotonic()
    for size in (s for s in _PLAIN_ROWS if s <= len(rows)):
        chunk = _middle(rows, size)
        if num_positions_batched(chunk) * vocab * 4 * _COPIES_OF_LOGITS > limit:
            break
        work = partial(batched, subject.model, chunk, steering)
        try:
            if not rates:
                work()
            took = min(seconds(work, device) for _ in range(_TRIES))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            break
        rates[size] = size / took
        # The next size takes about twice as long.
        is_late = time.monotonic() - started + 2 * _TRIES * took > budget_s
        if is_late or rates[size] < _WORSE * max(rates.values()):
            break
    rates = rates or {_PLAIN_ROWS[0]: 0.0}
    return max(rates, key=lambda size: rates[size]), rates


def best_engine_tokens(subject: Subject, rows: Sequence[EncodedExample], budget_s: float) -> Tuning:
    """Tokens per batch of the engine; rates are of one cell."""
    # A cell in the middle of the grid: about as many blocks above it as below.
    cells = [subject.cells[len(subject.cells) // 2]]
    engine = subject.engine.anew()

    def score(batch: Sequence[EncodedExample], tokens: int) -> None:
        engine.steered(batch, tokens, cells, subject.vectors)

    return tune(score, subject.model, rows, is_packed=subject.is_packed, budget_s=budget_s)


def _middle(rows: Sequence[EncodedExample], size: int) -> Sequence[EncodedExample]:
    start = max(0, (len(rows) - size) // 2)
    return rows[start : start + size]
