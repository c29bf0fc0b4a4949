"""The batch size at which a device scores fastest, found by trying a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from steering_core.encoding import EncodedExample
from steering_core.models import LoadedModel
from steering_core.packing import NUM_CANDIDATES
from steering_core.timing import seconds
from steering_core.xla import is_xla

Score = Callable[[Sequence[EncodedExample], int], object]
"""Scores rows in batches of at most so many tokens, with a pass of the model for each batch."""

BUDGET_S = 10.0
_SIZES = {"cpu": (512, 1024, 2048, 4096)}
_SIZES_ACCELERATOR = (2048, 4096, 8192, 16384, 32768, 65536)
_XLA_SIZE = 8192
"""Every size that is tried on XLA compiles all programs anew, for minutes on a TPU. This one fills
its matrix units many times over, and a few layers' streams of it fit beside a small model."""
_MOST_RUNS = 4
_NEARLY_BEST = 0.97


@dataclass(frozen=True)
class Tuning:
    """What came of trying.

    Attributes:
        tokens_per_batch: the smallest size within 3 % of the best rate; the smallest there is
            where none could be timed, a fixed one on XLA.
        rows_per_s: rate of each size that was timed, smallest first.
    """

    tokens_per_batch: int
    rows_per_s: Mapping[int, float]


def tune(
    score: Score,
    model: LoadedModel,
    rows: Sequence[EncodedExample],
    *,
    is_packed: bool = True,
    budget_s: float = BUDGET_S,
) -> Tuning:
    """Time batches that double in size until larger ones are no faster, do not fit, or time is up.

    On XLA nothing is timed: the size is a fixed one.

    The row of middle length, repeated, fills a batch: what is measured is the same however many
    rows there are. Each size runs a few times and its fastest run counts; the first one, which
    warms up, is all that a slow device is given time for.

    Args:
        score: what is timed. An engine remembers what did not fit: give it one of its own.
        rows: encoded examples like those to be scored.
        is_packed: whether ``score`` runs rows as trees.
        budget_s: seconds to take; what has begun is finished.
    """
    if is_xla(model.device):
        return Tuning(_XLA_SIZE, {})
    lengths = sorted(rows, key=lambda row: row.num_packed_tokens)
    row = lengths[len(lengths) // 2]
    width = row.num_packed_tokens if is_packed else NUM_CANDIDATES * row.num_tokens
    all_sizes = _SIZES.get(model.device.type, _SIZES_ACCELERATOR)
    sizes = [size for size in all_sizes if size >= width] or [all_sizes[-1]]
    rates: dict[int, float] = {}
    spent_s = 0.0
    for size in sizes:
        num_rows = max(1, size // width)
        took_s = _timed(partial(score, [row] * num_rows, size), model, budget_s - spent_s)
        if not took_s:
            break
        spent_s += sum(took_s)
        best_before = max(rates.values(), default=0.0)
        rates[size] = num_rows / min(took_s)
        if rates[size] <= best_before or spent_s >= budget_s:
            break
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    enough = _NEARLY_BEST * max(rates.values(), default=0.0)
    return Tuning(next((s for s, rate in rates.items() if rate >= enough), sizes[0]), rates)


def _timed(work: Callable[[], object], model: LoadedModel, left_s: float) -> list[float]:
    """Seconds of each run of one batch, at least one; none where memory does not hold the batch."""
    took_s: list[float] = []
    with _passes(model.layout.decoder) as passes:
        while not took_s or (len(took_s) < _MOST_RUNS and sum(took_s) < left_s):
            try:
                took_s.append(seconds(work, model.device))
            # Not every device says that it is out of memory with an error of its own. Whatever
            # else fails here will fail in the task, where it is reported.
            except RuntimeError:
                return []
            # The engine halves a batch that does not fit and goes on: that is no batch of the size.
            if len(passes) > len(took_s):
                return []
    return took_s


@contextmanager
def _passes(decoder: nn.Module) -> Iterator[list[None]]:
    """While open, an entry for each time that a batch enters the decoder."""
    entered: list[None] = []

    def note(_module: nn.Module, _args: object) -> None:
        entered.append(None)

    handle = decoder.register_forward_pre_hook(note)
    try:
        yield entered
    finally:
        handle.remove()
