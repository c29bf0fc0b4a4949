"""The forecast of what a sweep has left to do: by model and phase, with memory, bytes and time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.scoring.forecast.rates import Rates
from jobs.scoring.forecast.sizes import states_part_bytes, sums_part_bytes, vectors_bytes
from jobs.scoring.forecast.tasks import Forecast, Forecaster
from jobs.scoring.inventory import Inventory
from jobs.scoring.plan import (
    UNSTEERED_PHASES,
    PlannedTask,
    VectorSet,
    uses_held_out_folds,
)
from jobs.scoring.sweep import AnySweep
from jobs.scoring.tables import HELD_OUT, HELD_OUT_SUMS
from steering_core.memory import Memory, peak_memory, weights_bytes
from steering_core.skeleton import Skeleton
from steering_core.trunk import fork_point
from steering_core.vector_fits import METHODS
from steering_core.work import Batching, batch_shapes


@dataclass(frozen=True, slots=True)
class Reads:
    """Bytes that are read, at most.

    Attributes:
        weights: once for each replica that holds the model.
        vectors: by every steered task, whose certificate reads them anew, and by each replica when
            it first meets a group.
        fits: sums or states, by the driver, to fit vectors that are not there yet.
    """

    weights: int
    vectors: int
    fits: int

    @property
    def total(self) -> int:
        return self.weights + self.vectors + self.fits


@dataclass(frozen=True, slots=True)
class ModelForecast:
    """What is left of one model.

    Attributes:
        phases: by ``PlannedTask.phase``, in the order in which they run.
        tasks: each task's phase and forecast.
        steered_tokens: tokens x blocks of steered passes by what steers: ``fitted``, ``held_out``,
            ``nulls`` and ``side_effects``, as far as the sweep has them.
        memory: of one replica.
        vectors_written: bytes of files of vectors that are not there yet.
    """

    name: str
    skeleton: Skeleton
    dtype: str
    batching: Batching
    phases: Mapping[str, Forecast]
    tasks: Sequence[tuple[str, Forecast]]
    steered_tokens: Mapping[str, int]
    memory: Memory
    reads: Reads
    vectors_written: int

    @property
    def total(self) -> Forecast:
        """All phases together."""
        return sum(self.phases.values(), Forecast())

    def task_seconds(self, rates: Rates) -> tuple[list[float], list[float]]:
        """Seconds of each task of phase 1, and of each later one."""
        none = Forecast()
        first = [rates.seconds(f, none) for phase, f in self.tasks if phase in UNSTEERED_PHASES]
        later = [rates.seconds(none, f) for phase, f in self.tasks if phase not in UNSTEERED_PHASES]
        return first, later

    def replica_seconds(self, rates: Rates) -> float:
        """Seconds that one replica takes for all of it."""
        baseline = (f for phase, f in self.phases.items() if phase in UNSTEERED_PHASES)
        steered = (f for phase, f in self.phases.items() if phase not in UNSTEERED_PHASES)
        return rates.seconds(sum(baseline, Forecast()), sum(steered, Forecast()))


def forecast_model(
    sweep: AnySweep,
    inventory: Inventory,
    name: str,
    skeleton: Skeleton,
    batching: Batching,
    device_kind: str,
    num_replicas: int,
) -> ModelForecast:
    """The forecast of one model's tasks that are not done."""
    left = [
        task
        for task in inventory.planned
        if task.group.model == name and task.plan_id not in inventory.done
    ]
    forecaster = Forecaster(sweep, name, skeleton, batching)
    phases: dict[str, Forecast] = {}
    tasks: list[tuple[str, Forecast]] = []
    steered_tokens: Counter[str] = Counter()
    for task in sorted(left, key=lambda task: task.is_steered):
        tasks.append((task.phase, forecaster.forecast(task)))
        phases[task.phase] = phases.get(task.phase, Forecast()) + tasks[-1][1]
        if task.is_steered:
            steered_tokens.update(forecaster.steered_tokens(task))
    dtype = sweep.models[name].dtype
    return ModelForecast(
        name=name,
        skeleton=skeleton,
        dtype=dtype,
        batching=batching,
        phases=phases,
        tasks=tasks,
        steered_tokens=dict(steered_tokens),
        memory=_memory(sweep, forecaster, left, skeleton, dtype, batching, device_kind),
        reads=_reads(sweep, inventory, name, left, skeleton, dtype, num_replicas),
        vectors_written=_vectors_written(sweep, inventory, left, skeleton.width),
    )


def _memory(
    sweep: AnySweep,
    forecaster: Forecaster,
    left: Sequence[PlannedTask],
    skeleton: Skeleton,
    dtype: str,
    batching: Batching,
    device_kind: str,
) -> Memory:
    """Of the task that takes the most."""
    protocol, num_blocks = sweep.protocol, skeleton.num_blocks
    most = peak_memory(skeleton, (), dtype, device_kind, num_kept=0, longest=0)
    for task in left:
        rows = forecaster.rows(task)
        kept = (
            {fork_point(protocol.apply_at(layer), num_blocks) for layer, _ in task.cells}
            if task.is_steered
            else {protocol.read_at(layer) for layer in task.layers}
        )
        measures = sweep.spec.measures if task.is_steered else ()
        checks = sweep.spec.certificate.rows_per_task > 0
        memory = peak_memory(
            skeleton,
            batch_shapes(rows, batching),
            dtype,
            device_kind,
            num_kept=len(kept) + (not task.is_steered or "kl" in measures),
            longest=max(row.longest for row in rows) if checks else 0,
            reuses_prefix=batching.reuses_prefix and task.is_steered,
            measures=measures,
        )
        most = max(most, memory, key=lambda m: m.total_bytes)
    return most


def _reads(
    sweep: AnySweep,
    inventory: Inventory,
    name: str,
    left: Sequence[PlannedTask],
    skeleton: Skeleton,
    dtype: str,
    num_replicas: int,
) -> Reads:
    by_set = Counter(of for task in left for of in task.vector_sets)
    vectors_read = sum(
        (num_tasks + min(num_replicas, num_tasks))
        * vectors_bytes(sweep.spec.steering.layers, _num_folds(sweep, of), skeleton.width)
        for of, num_tasks in by_set.items()
    )
    return Reads(
        weights=min(num_replicas, len(left)) * weights_bytes(skeleton, dtype),
        vectors=vectors_read,
        fits=sum(
            _fit_bytes(sweep, task, skeleton.width)
            for task in inventory.planned
            if task.group.model == name
            and task.fits
            and any(of.group == task.group and of not in inventory.vectors for of in by_set)
        ),
    )


def _fit_bytes(sweep: AnySweep, task: PlannedTask, width: int) -> int:
    """Of a phase 1 task's parts that vectors are fitted from."""
    num = len(task.example_ids)
    sizes = {
        "states": states_part_bytes(len(task.layers), num, width),
        "sums": sums_part_bytes(
            len(task.layers), min(_num_folds(sweep, VectorSet(task.group)), num), width
        ),
    }
    if HELD_OUT_SUMS in task.tables:
        num_folds = _num_folds(sweep, VectorSet(task.group, HELD_OUT))
        sizes[HELD_OUT_SUMS] = sums_part_bytes(len(task.layers), min(num_folds, num), width)
    # Of a method that needs states, the sums are not read.
    kinds = {"states"} if METHODS[sweep.spec.vectors.method].needs_states else set(sizes)
    return sum(sizes[table] for table in task.tables if table in kinds)


def _num_folds(sweep: AnySweep, of: VectorSet) -> int:
    return sweep.num_folds(of.group.key, held_out=uses_held_out_folds(sweep, of.table))


def _vectors_written(
    sweep: AnySweep, inventory: Inventory, left: Sequence[PlannedTask], width: int
) -> int:
    layers: dict[VectorSet, set[int]] = defaultdict(set)
    for task in left:
        for of in task.vector_sets:
            layers[of] |= {layer for layer, _ in task.cells}
    held = {of: set(vectors.whole) for of, vectors in inventory.vectors.items()}
    return sum(
        vectors_bytes(sorted(wanted | held.get(of, set())), _num_folds(sweep, of), width)
        for of, wanted in layers.items()
        if not wanted <= held.get(of, set())
    )
