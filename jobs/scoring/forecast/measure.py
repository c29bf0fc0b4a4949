"""A short measurement: a model's replica on this machine, on real rows of the sweep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import transformers

from jobs.advice import advised
from jobs.scoring.forecast.rates import Rates
from jobs.scoring.groups import ScoredExample
from jobs.scoring.sweep import AnySweep, SweepModel
from jobs.sweeps.here import torch_threads
from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Engine
from steering_core.flops import NO_NEEDS, RowNeeds, needed_flops, plain_flops
from steering_core.kernels.choice import choose_kernels
from steering_core.memory_gauges import peak_memory_bytes, reset_peak_memory
from steering_core.models import LoadedModel, load_model
from steering_core.probes import engine_for
from steering_core.skeleton import Skeleton
from steering_core.slow_engine import SlowEngine
from steering_core.timing import neighbours, seconds
from steering_core.tuning import tune
from steering_core.vectors import fit_mean_difference
from steering_core.work import Batching, counts_of

_MOST_BATCHES = 24
_TUNING_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a measurement.

    Attributes:
        batching: how the engine cuts rows; the size of batches is measured where none is given.
        num_rows: rows that were timed.
        took_s: of the whole measurement, loading included.
        peak_bytes: as ``steering_core.memory_gauges.peak_memory_bytes``, over the timed batches.
    """

    rates: Rates
    batching: Batching
    num_rows: int
    num_cells: int
    took_s: float
    peak_bytes: int


@advised()
def measure(
    sweep: AnySweep,
    model: SweepModel,
    skeleton: Skeleton,
    examples: Sequence[ScoredExample],
    tokens_per_batch: int | None,
    budget_s: float,
) -> Measured:
    """Time baseline, steered batches and the slow path on a few of the examples.

    Batches are of neighbours in length, spread over all lengths, as those of a run are. Sets
    torch's number of threads to that of a replica, and puts it back.

    Args:
        tokens_per_batch: of the run; None: the best of a few is found first.
        budget_s: seconds to aim at, without loading; what has begun is finished.

    Raises:
        UserError: the model cannot be loaded.
    """
    started = time.monotonic()
    transformers.logging.disable_progress_bar()
    with torch_threads(sweep.spec.compute.num_threads):
        loaded = load_model(model.source, device=sweep.device, dtype=model.dtype)
        engine = engine_for(loaded, sweep.protocol, measures=sweep.spec.measures)
        if sweep.spec.compute.accelerate == "auto":
            engine = engine.anew(choose_kernels(loaded, is_packed=engine.is_packed).names)
        timer = _Timer(sweep, skeleton, loaded, engine)
        return timer.run(model, examples, tokens_per_batch, budget_s, started)


class _Timer:
    """Times one loaded model."""

    def __init__(
        self, sweep: AnySweep, skeleton: Skeleton, loaded: LoadedModel, engine: Engine
    ) -> None:
        self._sweep, self._skeleton = sweep, skeleton
        self._model, self._engine = loaded, engine
        self._slow = SlowEngine(loaded, sweep.protocol)
        self._layers = tuple(sorted(sweep.spec.steering.layers))
        coeff = float(sweep.spec.steering.coeffs[0])
        self._cells = [Cell(layer, coeff) for layer in self._layers]

    def run(
        self,
        model: SweepModel,
        examples: Sequence[ScoredExample],
        tokens_per_batch: int | None,
        budget_s: float,
        started: float,
    ) -> Measured:
        counts = model.counts(examples)
        order = sorted(range(len(examples)), key=lambda n: counts[n].num_packed)
        middle = model.encode((examples[order[len(order) // 2]],))
        row_s = self._seconds_of_baseline(middle, 1)  # loads kernels, too
        row_s = min(row_s, self._seconds_of_baseline(middle, 1))
        begun = time.monotonic()
        if tokens_per_batch is None:
            tokens_per_batch = self._tuned(middle, _TUNING_SHARE * budget_s)
        if row_s * (1 + len(self._cells)) > budget_s:
            self._cells = self._cells[len(self._cells) // 2 :][:1]
        per_batch = max(1, tokens_per_batch // middle[0].num_packed_tokens)
        is_slow = row_s * per_batch * (1 + len(self._cells)) > budget_s
        per_batch = 1 if is_slow else per_batch
        picked = neighbours(len(order), _MOST_BATCHES * per_batch, per_batch)
        chunks = [picked[low : low + per_batch] for low in range(0, len(picked), per_batch)]
        reset_peak_memory(self._model.device)
        took = _Took()
        for chunk in _spread(chunks):
            rows = model.encode(tuple(examples[order[n]] for n in chunk))
            self._time(rows, tokens_per_batch, took)
            if time.monotonic() - begun > budget_s:
                break
        engine = self._engine
        return Measured(
            rates=took.rates,
            batching=Batching(
                tokens_per_batch, engine.is_packed, engine.reuses_prefix, engine.buckets
            ),
            num_rows=took.num_rows,
            num_cells=len(self._cells),
            took_s=time.monotonic() - started,
            peak_bytes=peak_memory_bytes(self._model.device),
        )

    def _tuned(self, rows: Sequence[EncodedExample], budget_s: float) -> int:
        engine = self._engine.anew()
        return tune(
            lambda batch, tokens: engine.baseline(batch, tokens, self._layers),
            self._model,
            rows,
            is_packed=engine.is_packed,
            budget_s=budget_s,
        ).tokens_per_batch

    def _seconds_of_baseline(self, rows: Sequence[EncodedExample], tokens: int) -> float:
        return seconds(
            lambda: self._engine.baseline(rows, tokens, self._layers), self._model.device
        )

    def _time(self, rows: Sequence[EncodedExample], tokens: int, took: _Took) -> None:
        costs, device = self._skeleton.costs, self._model.device
        pooled = []
        took.baseline_s += seconds(
            lambda: pooled.append(self._engine.baseline(rows, tokens, self._layers)[1]), device
        )
        vectors = fit_mean_difference(pooled[0].sums(), 1)
        took.steered_s += seconds(
            lambda: self._engine.steered(rows, tokens, self._cells, vectors), device
        )
        took.checked_s += seconds(lambda: self._slow.row_scores(rows[0]), device)
        counts = [counts_of(row, self._sweep.protocol) for row in rows]
        needs: RowNeeds = sum((c.needs for c in counts), NO_NEEDS)
        behind: RowNeeds = sum((c.needs_behind for c in counts), NO_NEEDS)
        streams = [self._sweep.protocol.apply_at(cell.layer).stream for cell in self._cells]
        took.num_rows += len(rows)
        took.baseline_flops += needed_flops(costs, needs, [0])
        took.steered_flops += len(streams) * needed_flops(
            costs,
            needs,
            streams,
            behind if self._engine.reuses_prefix else None,
            self._engine.measures,
        )
        took.checked_flops += plain_flops(costs, counts[0].lengths)


@dataclass
class _Took:
    """Seconds and operations so far."""

    num_rows: int = 0
    baseline_s: float = 0.0
    steered_s: float = 0.0
    checked_s: float = 0.0
    baseline_flops: float = 0.0
    steered_flops: float = 0.0
    checked_flops: float = 0.0

    @property
    def rates(self) -> Rates:
        return Rates(
            self.baseline_flops / self.baseline_s,
            self.steered_flops / self.steered_s,
            self.checked_flops / self.checked_s,
        )


def _spread(chunks: list[list[int]]) -> list[list[int]]:
    """The chunks in an order whose every beginning is spread over all of them."""
    if len(chunks) < 3:
        return chunks
    middle = len(chunks) // 2
    below, above = _spread(chunks[:middle]), _spread(chunks[middle + 1 :])
    mixed = [c for pair in zip(below, above, strict=False) for c in pair]
    return [chunks[middle], *mixed, *below[len(above) :], *above[len(below) :]]
