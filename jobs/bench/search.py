"""The best batch size of the batched plain loop and of the engine, found by trying a few."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from jobs.bench.measure import available_memory_bytes, seconds
from jobs.bench.plain import batched, num_positions_batched
from jobs.bench.subject import Subject
from steering_core.encoding import EncodedExample

_PLAIN_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_ENGINE_TOKENS = {
    "cpu": (512, 1024, 2048, 4096),
    "cuda": (2048, 4096, 8192, 16384, 32768, 65536),
}
_COPIES_OF_LOGITS = 4
"""Full logits are held this many times at once: product, scaled, capped, and in float32."""
_WORSE = 0.85
_TRIES = 2


def best_plain_batch(
    subject: Subject, rows: Sequence[EncodedExample], budget_s: float
) -> tuple[int, dict[int, float]]:
    """Rows per batch, and the rate in rows per second of each size that was tried.

    Args:
        rows: by length; sizes are tried on rows of middle length.
    """
    device, steering = subject.model.device, subject.steering(subject.cells[0])
    vocab = int(subject.model.layout.config.vocab_size)
    limit = available_memory_bytes(device) // 2

    def run(size: int) -> Callable[[], object] | None:
        chunk = _middle(rows, size)
        logits = num_positions_batched(chunk) * vocab * 4 * _COPIES_OF_LOGITS
        return None if logits > limit else lambda: batched(subject.model, chunk, steering)

    rates = _rates([s for s in _PLAIN_ROWS if s <= len(rows)], run, device, budget_s)
    return max(rates, key=lambda size: rates[size]), rates


def best_engine_tokens(
    subject: Subject, rows: Sequence[EncodedExample], budget_s: float
) -> tuple[int, dict[int, float]]:
    """Tokens per batch, and the rate in rows per second (one cell) of each size tried."""
    device = subject.model.device
    # A cell in the middle of the grid: about as many blocks above it as below.
    cells = [subject.cells[len(subject.cells) // 2]]
    mean = sum(row.num_packed_tokens for row in rows) / len(rows)
    per_row = mean if subject.is_packed else 3 * mean

    def num_rows(size: int) -> int:
        return max(1, int(size / per_row))

    def run(size: int) -> Callable[[], object]:
        chunk = _middle(rows, num_rows(size))
        return lambda: subject.engine.steered(chunk, size, cells, subject.vectors)

    sizes = _ENGINE_TOKENS.get(device.type, _ENGINE_TOKENS["cpu"])
    fitting = [s for s in sizes if num_rows(s) <= len(rows)] or [sizes[0]]
    rates = _rates(fitting, run, device, budget_s, num_rows)
    return max(rates, key=lambda size: rates[size]), rates


def _rates(
    sizes: Sequence[int],
    run: Callable[[int], Callable[[], object] | None],
    device: torch.device,
    budget_s: float,
    num_rows: Callable[[int], int] = lambda size: size,
) -> dict[int, float]:
    """Rows per second by size, smallest first, until it gets worse, too large or too late."""
    rates: dict[int, float] = {}
    started = time.monotonic()
    for size in sizes:
        work = run(size)
        if work is None:
            break
        try:
            if not rates:
                work()
            took = min(seconds(work, device) for _ in range(_TRIES))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        rates[size] = num_rows(size) / took
        # The next size takes about twice as long.
        is_late = time.monotonic() - started + 2 * _TRIES * took > budget_s
        if is_late or rates[size] < _WORSE * max(rates.values()):
            break
    return rates or {sizes[0]: 0.0}


def _middle(rows: Sequence[EncodedExample], size: int) -> Sequence[EncodedExample]:
    start = max(0, (len(rows) - size) // 2)
    return rows[start : start + size]
