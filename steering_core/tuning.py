"""The batch size at which a device scores fastest, found by trying a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from steering_core.encoding import EncodedExample
from steering_core.models import LoadedModel
from steering_core.out_of_memory import is_out_of_memory
from steering_core.packing import num_sequences, width_of
from steering_core.timing import seconds
from steering_core.xla import is_xla

Score = Callable[[Sequence[EncodedExample], int], object]
"""Scores rows in batches of at most so many tokens, with a pass of the model for each batch."""

BUDGET_S = 10.0
_SIZES = {"cpu": (512, 1024, 2048, 4096)}
_SIZES_ACCELERATOR = (2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144)
"""Up to what fills 141 GB; the search ends before, where larger ones are no faster."""
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

    Raises:
        RuntimeError: ``score`` failed for another reason than memory.
    """
    if is_xla(model.device):
        return Tuning(_XLA_SIZE, {})
    lengths = sorted(rows, key=lambda row: row.num_packed_tokens)
    row = lengths[len(lengths) // 2]
    per_row = num_sequences(row, is_packed=is_packed)
    width = per_row * width_of(row, is_packed=is_packed)
    all_sizes = _SIZES.get(model.device.type, _SIZES_ACCELERATOR)
    sizes = [size for size in all_sizes if size >= width] or [all_sizes[-1]]
    rates: dict[int, float] = {}
    spent_s = 0.0
    for size in sizes:
        num_rows = max(1, size // width)
        work = partial(score, [row] * num_rows, size)
        took_s = _timed(work, per_row * num_rows, model, budget_s - spent_s)
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


def _timed(
    work: Callable[[], object], num_sequences: int, model: LoadedModel, left_s: float
) -> list[float]:
    """Seconds of each run of one batch, at least one; none if memory does not hold the batch.

    Args:
        num_sequences: R of the batch.
    """
    took_s: list[float] = []
    with _sequences(model.layout.decoder) as entered:
        while not took_s or (len(took_s) < _MOST_RUNS and sum(took_s) < left_s):
            try:
                took_s.append(seconds(work, model.device))
            except (RuntimeError, MemoryError) as error:
                # Another error is no reason to take a smaller batch: a GPU that fails once fails
                # from then on, and every size would seem too large.
                if not is_out_of_memory(error):
                    raise
                return []
            # The engine halves a batch that does not fit and goes on. Counting passes would not
            # tell: with a kept prefix, a whole batch enters the decoder twice.
            if min(entered) < num_sequences:
                return []
    return took_s


@contextmanager
def _sequences(decoder: nn.Module) -> Iterator[list[int]]:
    """While open, the number of sequences of each pass of the decoder is appended."""
    entered: list[int] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(len(args[0] if args else kwargs["input_ids"]))

    handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield entered
    finally:
        handle.remove()
