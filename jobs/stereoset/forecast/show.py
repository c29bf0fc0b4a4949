"""The forecast of a sweep as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.console import print_table, say, warn
from jobs.stereoset.forecast.devices import Device
from jobs.stereoset.forecast.measure import Measured
from jobs.stereoset.forecast.rates import Rates
from jobs.stereoset.forecast.session import print_sessions
from jobs.stereoset.forecast.sweep import ModelForecast
from jobs.stereoset.forecast.tasks import Forecast
from jobs.stereoset.forecast.units import amount
from jobs.stereoset.inventory import Inventory
from jobs.words import duration

PLAN_VERSION = 1

NOT_IN_TIME = (
    "starting Ray, loading models, finding a batch size, fits of vectors, the report, and replicas "
    "that wait for the last tasks or share one machine's memory"
)


@dataclass(frozen=True)
class ModelTime:
    """How fast one model's replicas are, and how that is known.

    Attributes:
        rates: None where they are not known; ``reason`` says why.
        measured: where they were measured.
        tokens_from: how the size of batches is known, in words.
    """

    rates: Rates | None
    reason: str
    measured: Measured | None
    tokens_from: str


@dataclass(frozen=True)
class SweepForecast:
    """Everything that ``steersweep plan`` tells.

    Attributes:
        device: a stated one; None: this machine.
        share: of the device's stated rate that is assumed to be reached.
        gpus_per_replica: devices that hold a replica; below 1, its part of one.
        sessions: of the run so far, as in ``run.json``.
    """

    output: str
    inventory: Inventory
    models: Sequence[ModelForecast]
    times: Mapping[str, ModelTime]
    device_kind: str
    device: Device | None
    share: float
    num_replicas: int
    gpus_per_replica: float
    sessions: Sequence[Mapping[str, Any]]

    @property
    def seconds(self) -> float | None:
        """Wall time with all replicas busy; None where a model's rate is not known."""
        took = [self.replica_seconds(model) for model in self.models]
        known = [s for s in took if s is not None]
        return sum(known) / self.num_replicas if len(known) == len(took) else None

    def replica_seconds(self, model: ModelForecast) -> float | None:
        """What one replica takes for all that is left of a model."""
        rates = self.times[model.name].rates
        return None if rates is None else model.replica_seconds(rates)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        total = sum((model.total for model in self.models), Forecast())
        return {
            "plan_version": PLAN_VERSION,
            "output": self.output,
            "num_tasks": len(self.inventory.planned),
            "num_tasks_done": len(self.inventory.done),
            "num_rows_cells_done": self.inventory.num_rows_done,
            "device": self.device.name if self.device else self.device_kind,
            "share": self.share if self.device else None,
            "num_replicas": self.num_replicas,
            "seconds": self.seconds,
            "not_in_seconds": NOT_IN_TIME,
            "left": _plain(total),
            "models": {model.name: self._model_json(model) for model in self.models},
            "sessions": [
                {key: session.get(key) for key in ("started", "outcome", "planned", "actual")}
                for session in self.sessions
            ],
        }

    def _model_json(self, model: ModelForecast) -> dict[str, Any]:
        time = self.times[model.name]
        return {
            "dtype": model.dtype,
            "num_params": model.skeleton.num_params,
            "batching": asdict(model.batching) | {"tokens_from": time.tokens_from},
            "left": _plain(model.total),
            "phases": {phase: _plain(forecast) for phase, forecast in model.phases.items()},
            "memory": asdict(model.memory) | {"total_bytes": model.memory.total_bytes},
            "read_bytes": asdict(model.reads) | {"total": model.reads.total},
            "vectors_written_bytes": model.vectors_written,
            "replica_seconds": self.replica_seconds(model),
            "rates": None if time.rates is None else asdict(time.rates),
            "rates_from": time.reason,
            "measured": None if time.measured is None else asdict(time.measured),
        }


def show(plan: SweepForecast) -> None:
    """Print it."""
    done, planned = plan.inventory.done, plan.inventory.planned
    say(f"{plan.output}: {len(done):,} of {len(planned):,} tasks are done")
    if plan.models:
        _show_work(plan)
        _show_models(plan)
        _show_time(plan)
    print_sessions(plan.sessions)


def _show_work(plan: SweepForecast) -> None:
    rows = []
    for model in plan.models:
        for phase, forecast in model.phases.items():
            rows.append(_work_row(model.name, phase, forecast))
        rows.append(_certificate_row(model))
    if len(rows) > 1:
        total = sum((model.total for model in plan.models), Forecast())
        rows.append(_work_row("all", "", total))
    print_table(
        "left to run, and what a plain loop over all sequences and cells would take",
        [
            *("model", "phase", "tasks", "cell rows", "passes", "forks", "tokens x blocks"),
            *("needed FLOP", "plain passes", "tokens x blocks", "avoided"),
        ],
        rows,
    )


def _work_row(model: str, phase: str, forecast: Forecast) -> list[str]:
    work = forecast.work
    avoided = 1 - work.block_tokens / max(1, forecast.plain_block_tokens)
    return [
        model,
        phase,
        f"{forecast.num_tasks:,}",
        f"{forecast.num_rows_cells:,}",
        f"{work.num_trunks:,}",
        f"{work.num_forks:,}",
        amount(work.block_tokens),
        amount(forecast.needed_flops),
        f"{forecast.plain_passes:,}",
        amount(forecast.plain_block_tokens),
        f"{avoided:.1%}",
    ]


def _certificate_row(model: ModelForecast) -> list[str]:
    total = model.total
    return [
        model.name,
        "certificate",
        "",
        f"{total.checked_rows:,}",
        f"{total.checked_passes:,}",
        "",
        amount(total.checked_block_tokens),
        amount(total.checked_flops),
        *("", "", ""),
    ]


def _show_models(plan: SweepForecast) -> None:
    print_table(
        "by model; memory is that of one replica without its process, bytes are over the whole run",
        [
            *("model", "parameters", "dtype", "tokens a batch", "peak memory", "weights"),
            *("weights read", "vectors read", "sums read", "written", "replica time"),
        ],
        [
            [
                model.name,
                amount(model.skeleton.num_params),
                model.dtype,
                f"{model.batching.tokens_per_batch:,} {plan.times[model.name].tokens_from}",
                amount(model.memory.total_bytes, "B"),
                amount(model.memory.weights_bytes, "B"),
                amount(model.reads.weights, "B"),
                amount(model.reads.vectors, "B"),
                amount(model.reads.fits, "B"),
                amount(model.total.written_bytes + model.vectors_written, "B"),
                "-" if seconds is None else duration(seconds),
            ]
            for model in plan.models
            for seconds in [plan.replica_seconds(model)]
        ],
    )


def _show_time(plan: SweepForecast) -> None:
    for model in plan.models:
        time = plan.times[model.name]
        line = f"{model.name}: {time.reason}"
        if time.rates is not None:
            line += (
                f"; {amount(time.rates.baseline)}FLOP/s needed in baseline, "
                f"{amount(time.rates.steered)}FLOP/s steered, "
                f"{amount(time.rates.checked)}FLOP/s in the certificate"
            )
        say(line)
        limit = None if plan.device is None else plan.device.memory_bytes * plan.gpus_per_replica
        if limit is not None and model.memory.total_bytes > limit:
            warn(
                f"{model.name}: a replica takes {amount(model.memory.total_bytes, 'B')}, "
                f"{plan.gpus_per_replica:g} of {plan.device.name if plan.device else ''} has "
                f"{amount(limit, 'B')}; give it more (compute.gpus_per_replica), a smaller batch "
                "or a smaller dtype"
            )
    where = f"{plan.num_replicas} replica{'s' if plan.num_replicas > 1 else ''} on " + (
        plan.device.name if plan.device else f"this machine ({plan.device_kind})"
    )
    if plan.seconds is None:
        say(f"time: not known for {where}; name a --device to go by stated rates")
        return
    say(f"time: about {duration(plan.seconds)} with {where}")
    if plan.device is not None:
        say(
            f"assumed, not measured: needed operations reach {plan.share:g} of the rate that the "
            f"vendor states for {plan.device.name} (--share)"
        )
    say(f"not in it: {NOT_IN_TIME}")


def _plain(forecast: Forecast) -> dict[str, Any]:
    return asdict(forecast)
