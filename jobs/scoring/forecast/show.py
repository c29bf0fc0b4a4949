"""The forecast of a sweep as tables and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.console import Verbosity, detail, is_shown, print_table, say, warn
from jobs.scoring.forecast.devices import Device
from jobs.scoring.forecast.measure import Measured
from jobs.scoring.forecast.rates import Rates
from jobs.scoring.forecast.session import print_sessions
from jobs.scoring.forecast.sweep import ModelForecast
from jobs.scoring.forecast.tasks import Forecast
from jobs.scoring.inventory import Inventory
from jobs.scoring.plan import SIDE_PHASES, UNSTEERED_PHASES
from jobs.sweeps.estimate import PLAN_VERSION, Estimate
from jobs.sweeps.units import amount
from jobs.sweeps.wall_time import (
    LOAD_BYTES_PER_S,
    RAY_START_S,
    REPLICA_START_S,
    busy_seconds,
    startup_seconds,
)
from jobs.words import count, duration

NOT_IN_TIME = (
    "downloads, finding a batch size, fitting vectors, the report, or replicas that share one "
    "machine's memory"
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
class SweepForecast(Estimate):
    """Everything that ``steersweep plan`` tells.

    Attributes:
        device: a stated one; None: this machine.
        share: of the device's stated rate that is assumed to be reached.
        num_replicas: that have a task at a time, at most as many as were asked for.
        num_replicas_asked: by an option or the spec; None: this machine's room decides.
        on_ray: whether replicas are started by Ray.
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
    num_replicas_asked: int | None
    on_ray: bool
    gpus_per_replica: float
    sessions: Sequence[Mapping[str, Any]]

    @property
    def seconds(self) -> float | None:
        """Wall time, start-up included; None if a model's rate is not known."""
        phases: tuple[list[float], list[float]] = ([], [])
        for model in self.models:
            rates = self.times[model.name].rates
            if rates is None:
                return None
            for phase, seconds in zip(phases, model.task_seconds(rates), strict=True):
                phase += seconds
        return self.startup_seconds + busy_seconds(phases, self.num_replicas)

    @property
    def startup_seconds(self) -> float:
        """Until every replica holds its model: an assumption, part of ``seconds``."""
        weights = [model.memory.weights_bytes for model in self.models]
        return startup_seconds(weights, self.num_replicas, on_ray=self.on_ray)

    def replica_seconds(self, model: ModelForecast) -> float | None:
        """What one replica takes for all that is left of a model."""
        rates = self.times[model.name].rates
        return None if rates is None else model.replica_seconds(rates)

    def show(self) -> None:
        """See ``Estimate``."""
        _show(self)

    def as_json(self) -> dict[str, Any]:
        """See ``Estimate``."""
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
            "num_replicas_asked": self.num_replicas_asked,
            "seconds": self.seconds,
            "startup_seconds": self.startup_seconds,
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
            "steered_block_tokens": dict(model.steered_tokens),
            "memory": asdict(model.memory) | {"total_bytes": model.memory.total_bytes},
            "read_bytes": asdict(model.reads) | {"total": model.reads.total},
            "vectors_written_bytes": model.vectors_written,
            "replica_seconds": self.replica_seconds(model),
            "rates": None if time.rates is None else asdict(time.rates),
            "rates_from": time.reason,
            "measured": None if time.measured is None else asdict(time.measured),
        }


def _show(plan: SweepForecast) -> None:
    """Print rows, time and memory in one line; the tables with ``--verbose`` only."""
    say(headline(plan), at=Verbosity.QUIET)
    if plan.models:
        for line in factors(plan):
            say(line)
        _show_time(plan)
        _show_work(plan)
        _show_models(plan)
    print_sessions(plan.sessions)
    if plan.models and not is_shown(Verbosity.VERBOSE):
        say("--verbose prints the work of each phase, memory, and where the time comes from.")


def headline(plan: SweepForecast) -> str:
    """Rows that are left, time, and memory of a replica: ``312 rows, about 15 s on ...``."""
    done = plan.inventory.num_rows_done
    total = sum(task.num_rows_cells for task in plan.inventory.planned)
    if not plan.models:
        return f"Nothing is left to run: {plan.output} has all {total:,} rows."
    rows = f"{total - done:,} of {total:,} rows left" if done else f"{total:,} rows"
    device = plan.device.name if plan.device else plan.device_kind
    replicas = f"{count(plan.num_replicas, 'replica')} ({device})"
    is_known = plan.seconds is not None
    time = f"about {duration(plan.seconds or 0.0)}" if is_known else "time unknown"
    memory = amount(max(model.memory.total_bytes for model in plan.models), "B")
    return f"{rows}, {time} on {replicas}, memory {memory} per replica"


def factors(plan: SweepForecast) -> list[str]:
    """What held-out vectors, nulls and side effects add, a sentence each."""
    tokens: Counter[str] = Counter()
    for model in plan.models:
        tokens.update(model.steered_tokens)
    fitted, held_out, nulls = (tokens[arm] for arm in ("fitted", "held_out", "nulls"))
    if not fitted:  # what is left is added to fitted rows that are there: there is no ratio
        return _of_side_effects(plan)
    sentences = []
    if held_out:
        sentences.append(
            f"Held-out vectors steer every cell a second time: x {1 + held_out / fitted:.1f} of "
            "the steered work (vectors.held_out)."
        )
    if nulls:
        sentences.append(
            f"Nulls add {nulls / fitted:.1f} times the steered work of the fitted vectors (nulls)."
        )
    return sentences + _of_side_effects(plan)


def _of_side_effects(plan: SweepForecast) -> list[str]:
    """What other data, prompts and transfer add in rows and in time."""
    num_rows: Counter[bool] = Counter()
    seconds = {False: 0.0, True: 0.0}
    is_known = True
    for model in plan.models:
        rates = plan.times[model.name].rates
        for phase, forecast in model.phases.items():
            is_side = phase in SIDE_PHASES
            num_rows[is_side] += forecast.num_rows_cells
            if rates is None:
                is_known = False
                continue
            none = Forecast()
            parts = (forecast, none) if phase in UNSTEERED_PHASES else (none, forecast)
            seconds[is_side] += rates.seconds(*parts)
    if not num_rows[True]:
        return []
    text = f"Side effects and prompts add {num_rows[True]:,} rows"
    if num_rows[False]:
        text += f" to {num_rows[False]:,} (x {1 + num_rows[True] / num_rows[False]:.1f})"
    if is_known:
        text += f" and {duration(seconds[True] / plan.num_replicas)}"
        text += f" (x {1 + seconds[True] / seconds[False]:.1f})" if seconds[False] else ""
    return [f"{text}."]


def _show_work(plan: SweepForecast) -> None:
    for model in plan.models:
        columns = {phase: _work_of(forecast) for phase, forecast in model.phases.items()}
        columns["certificate"] = _certificate_of(model)
        columns["all"] = _work_of(model.total)
        _print_transposed(f"work left, {model.name}", columns)
    if len(plan.models) > 1:
        total = sum((model.total for model in plan.models), Forecast())
        _print_transposed("work left, all models", {"all": _work_of(total)})


def _work_of(forecast: Forecast) -> dict[str, str]:
    work = forecast.work
    avoided = 1 - work.block_tokens / max(1, forecast.plain_block_tokens)
    return {
        "tasks": f"{forecast.num_tasks:,}",
        "rows": f"{forecast.num_rows_cells:,}",
        "passes of the unsteered trunk": f"{work.num_trunks:,}",
        "steered forks": f"{work.num_forks:,}",
        "tokens x blocks": amount(work.block_tokens),
        "FLOP needed": amount(forecast.needed_flops),
        "passes of a plain loop": f"{forecast.plain_passes:,}",
        "tokens x blocks of a plain loop": amount(forecast.plain_block_tokens),
        "saved against a plain loop": f"{avoided:.1%}",
    }


def _certificate_of(model: ModelForecast) -> dict[str, str]:
    total = model.total
    return {
        "rows": f"{total.checked_rows:,}",
        "passes of the unsteered trunk": f"{total.checked_passes:,}",
        "tokens x blocks": amount(total.checked_block_tokens),
        "FLOP needed": amount(total.checked_flops),
    }


def _show_models(plan: SweepForecast) -> None:
    columns = {}
    for model in plan.models:
        seconds = plan.replica_seconds(model)
        columns[model.name] = {
            "parameters": amount(model.skeleton.num_params),
            "dtype": model.dtype,
            "tokens per batch": f"{model.batching.tokens_per_batch:,} "
            f"{plan.times[model.name].tokens_from}",
            "peak memory of a replica": amount(model.memory.total_bytes, "B"),
            "weights": amount(model.memory.weights_bytes, "B"),
            "weights read": amount(model.reads.weights, "B"),
            "vectors read": amount(model.reads.vectors, "B"),
            "sums or states read": amount(model.reads.fits, "B"),
            "written": amount(model.total.written_bytes + model.vectors_written, "B"),
            "time of one replica": "-" if seconds is None else duration(seconds),
        }
    _print_transposed("memory of a replica, bytes of the whole run", columns)


def _print_transposed(title: str, columns: Mapping[str, Mapping[str, str]]) -> None:
    """A table with a row per quantity, since there are more quantities than columns fit."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [[name, *(column.get(name, "") for column in columns.values())] for name in names]
    say(at=Verbosity.VERBOSE)
    print_table(title, ["", *columns], rows, at=Verbosity.VERBOSE)


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
        detail(line)
        limit = None if plan.device is None else plan.device.memory_bytes * plan.gpus_per_replica
        if limit is not None and model.memory.total_bytes > limit:
            warn(
                f"{model.name}: a replica needs {amount(model.memory.total_bytes, 'B')}, but "
                f"{plan.gpus_per_replica:g} {plan.device.name if plan.device else ''} has "
                f"{amount(limit, 'B')}; give it more (compute.gpus_per_replica), a smaller batch "
                "or a smaller dtype"
            )
    asked = plan.num_replicas_asked
    if asked is not None and plan.num_replicas < asked:
        say(
            f"Of {asked:,} replicas, {plan.num_replicas:,} have work: no more tasks can run at the "
            "same time. A smaller compute.examples_per_task makes more of them."
        )
    if plan.seconds is None:
        reason = next(t.reason for t in plan.times.values() if t.rates is None)
        say(f"No time is given: {reason}. Name a --device to estimate from its stated rates.")
        return
    if plan.device is not None:
        say(
            f"The time is an assumption, not a measurement: {plan.share:.0%} of the FLOP/s that "
            f"the vendor states for {plan.device.name} (--share)."
        )
    say(f"The time includes {_startup(plan)}, and does not include {NOT_IN_TIME}.")


def _startup(plan: SweepForecast) -> str:
    loading = f"loading weights at {amount(LOAD_BYTES_PER_S, 'B')}/s"
    what = (
        f"starting Ray ({RAY_START_S:.0f} s), starting a replica ({REPLICA_START_S:.0f} s) and "
        f"{loading}"
        if plan.on_ray
        else loading
    )
    return f"{duration(plan.startup_seconds)} of start-up, which is assumed: {what}"


def _plain(forecast: Forecast) -> dict[str, Any]:
    return asdict(forecast)
