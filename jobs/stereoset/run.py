"""``steersweep run``: resolve, plan, execute, summarise, and leave a record of all of it."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

from cluster.backends.base import Backend
from cluster.driver import execute
from cluster.errors import UserActionError
from cluster.lease import Lease
from cluster.ledger import Ledger
from cluster.logs import StoredLog
from cluster.outcome import Outcome, SetAside
from cluster.scheduler import Scheduler
from cluster.storage import Storage, StorageSpec
from cluster.tasks import Event, Pool, Receipt, ReplicaReady, Task, WorkerFactory
from jobs import __version__
from jobs.console import RunProgress, say, warn
from jobs.identity import changed_keys
from jobs.signals import StopSignals
from jobs.stereoset.inventory import Inventory, take_inventory
from jobs.stereoset.manifest import from_tables, to_table
from jobs.stereoset.plan import Packing, PlannedTask, packing_for, plan_missing
from jobs.stereoset.report import report
from jobs.stereoset.resolve import Sweep, resolve
from jobs.stereoset.spec import StereoSetSpec
from jobs.stereoset.stages import Stages
from jobs.stereoset.status import LOCK_KEY

logger = logging.getLogger(__name__)

_OURS = (
    "run.json",
    "manifest/",
    "baseline/",
    "sums/",
    "steered/",
    "vectors/",
    "summary/",
    "log/",
    "figures/",
    "report.html",
    "certificate.json",
    LOCK_KEY,
)


def run(spec: StereoSetSpec, *, new: bool = False) -> int:
    """Run a sweep, or what an output lacks of it; returns the exit code.

    Args:
        new: start afresh beside an output that is there already.

    Raises:
        InputError, UserActionError: the user must change something; nothing was written then.
    """
    storage_spec = StorageSpec(spec.output, spec.storage.endpoint_url, spec.storage.region)
    if new:
        storage_spec = _beside(storage_spec)
    storage = storage_spec.open()
    storage.check_reachable()
    sweep = resolve(spec)
    ledger = Ledger(storage)
    record = ledger.read_record()
    generations = ledger.read_manifest()
    known = from_tables(generations)
    if record is None and not known:
        _check_unused(storage)
    _check_same_sweep(storage, record, known, sweep)
    packing = Packing(known[0].tokens_per_batch, None) if known else packing_for(sweep)
    added = plan_missing(sweep, known, packing)
    storage.check_writable()
    with ExitStack() as stack:
        stack.enter_context(Lease.acquire(storage, LOCK_KEY))
        storage.clean_temporaries(older_than_s=3600)
        if added:
            attempt = uuid.uuid4().hex
            ledger.append_manifest(to_table(added), len(generations), attempt)
        log = stack.enter_context(_stored_log(storage))
        return _Run(sweep, storage_spec, storage, ledger, log).go([*known, *added])


class _Run:
    """One session of a run, under the lease."""

    def __init__(
        self,
        sweep: Sweep,
        storage_spec: StorageSpec,
        storage: Storage,
        ledger: Ledger,
        log: StoredLog,
    ) -> None:
        self._sweep, self._storage_spec, self._storage = sweep, storage_spec, storage
        self._ledger, self._log = ledger, log
        self._before = ledger.read_record()
        self._record = _record(sweep, self._before)

    def go(self, planned: list[PlannedTask]) -> int:
        """Execute what is missing, then report; returns the exit code."""
        inventory = take_inventory(self._storage, planned)
        total = sum(task.num_rows_cells for task in planned)
        done = sum(t.num_rows_cells for t in planned if t.plan_id in inventory.done)
        say(_headline(self._sweep, len(planned), len(inventory.done), total))
        if len(inventory.done) == len(planned):
            say("nothing left to compute")
            if self._before is None or self._before["outcome"] != "done":
                self._write_record("done")
            report(self._storage)
            return 0
        self._write_record("running")
        stages = Stages(self._sweep, inventory, self._storage)
        progress = RunProgress(total, done)
        outcome, signals = self._execute(stages, inventory, progress)
        return self._end(stages, outcome, signals, progress)

    def _execute(
        self, stages: Stages, inventory: Inventory, progress: RunProgress
    ) -> tuple[Outcome | None, StopSignals]:
        tasks = stages.first_tasks()
        num_left = len(inventory.planned) - len(inventory.done)
        in_process = self._sweep.spec.compute.executor == "in_process"

        def on_finished(task: Task, _receipt: Receipt) -> Iterable[Task]:
            progress.advance(stages.planned(task.id).num_rows_cells)
            return stages.after(task.id)

        def on_event(event: Event) -> None:
            if isinstance(event, ReplicaReady):
                progress.describe("scoring")
            self._log.write_if_due()

        with ExitStack() as stack:
            backend, num_slots = stack.enter_context(self._backend(num_left))
            signals = stack.enter_context(StopSignals(interrupts=in_process))
            stack.enter_context(progress.shown())
            progress.describe("loading models")
            scheduler = Scheduler(self._pools(), num_slots)
            scheduler.add(tasks)
            try:
                outcome = execute(
                    backend,
                    scheduler,
                    on_finished=on_finished,
                    on_event=on_event,
                    stop_requested=lambda: signals.is_set,
                )
            except KeyboardInterrupt:
                return None, signals
        return outcome, signals

    @contextmanager
    def _backend(self, num_tasks: int) -> Iterator[tuple[Backend, int]]:
        compute = self._sweep.spec.compute
        if compute.executor == "in_process":
            from cluster.backends.in_process import InProcessBackend

            with InProcessBackend(self._storage_spec) as twin:
                yield twin, 1
            return
        # Ray takes seconds to import and is not needed for a run that is done.
        from cluster.backends.ray_backend import RayBackend
        from cluster.backends.ray_session import ray_session, resolve_num_replicas

        say("starting Ray ...")
        with ray_session():
            requested = None if compute.replicas == "auto" else compute.replicas
            num_slots = resolve_num_replicas(
                requested, compute.cpus_per_replica, self._gpus_per_replica(), num_tasks
            )
            say(f"{num_slots} replica{'s' if num_slots > 1 else ''} on {self._sweep.device}")
            with RayBackend(self._storage_spec) as backend:
                yield backend, num_slots

    def _pools(self) -> list[Pool]:
        sweep, compute = self._sweep, self._sweep.spec.compute
        return [
            Pool(
                name=name,
                factory=WorkerFactory(
                    "jobs.stereoset.worker:StereoSetWorker",
                    {
                        "source": model.source,
                        "protocol": sweep.protocol,
                        "device": sweep.device,
                        "dtype": model.dtype,
                        "num_threads": compute.cpus_per_replica,
                        "storage": self._storage_spec,
                    },
                ),
                cpus_per_replica=compute.cpus_per_replica,
                gpus_per_replica=self._gpus_per_replica(),
            )
            for name, model in sweep.models.items()
        ]

    def _gpus_per_replica(self) -> float:
        wanted = self._sweep.spec.compute.gpus_per_replica
        return float(self._sweep.device == "cuda") if wanted == "auto" else wanted

    def _end(
        self,
        stages: Stages,
        outcome: Outcome | None,
        signals: StopSignals,
        progress: RunProgress,
    ) -> int:
        if outcome is None or outcome.interrupted:
            self._write_record("interrupted", progress)
            say("interrupted; what is finished is kept, and the same command goes on from there")
            return signals.exit_code
        if outcome.stop is not None:
            reason = outcome.stop.message
            self._write_record("stopped", progress, reason=reason)
            if outcome.stop.user_must_act:
                raise UserActionError(reason)
            warn(f"the run stopped: {reason}; what is finished is kept")
            return 1
        set_aside = [_described(stages.planned(e.task.id), e) for e in outcome.set_aside]
        self._write_record("failed tasks" if set_aside else "done", progress, set_aside=set_aside)
        say(f"{progress.rows_per_s:,.0f} cell rows per second")
        report(self._storage)
        for entry in set_aside:
            warn(
                f"set aside: {entry['group']}, shard {entry['shard']} ({entry['table']}): "
                f"{entry['reason']}"
            )
        return 1 if set_aside else 0

    def _write_record(self, outcome: str, progress: RunProgress | None = None, **more: Any) -> None:
        """Write ``run.json``; each session of the run has an entry of its own in it."""
        if progress is not None:
            more["rows_per_s"] = round(progress.rows_per_s, 3)
        if outcome != "running":
            more["ended"] = _now()
        session = {**self._record["sessions"][-1], "outcome": outcome, **more}
        sessions = [*self._record["sessions"][:-1], session]
        self._ledger.write_record(
            {**self._record, "outcome": outcome, "ended": more.get("ended"), "sessions": sessions}
        )


def _described(task: PlannedTask, entry: SetAside) -> dict[str, Any]:
    return {
        "task_id": entry.task.id,
        "table": task.tables[-1],
        "group": str(task.group),
        "shard": task.shard,
        "reason": entry.reason,
    }


def _check_same_sweep(
    storage: Storage,
    record: Mapping[str, Any] | None,
    known: Iterable[PlannedTask],
    sweep: Sweep,
) -> None:
    """Refuse an output of another sweep, or of a larger grid; a grid may only grow."""
    changes = []
    if record is not None:
        before, after = record["identity"], sweep.identity()
        # A model that came to the sweep brings keys of its own: those are growth.
        common = {key: before[key] for key in before if key in after}
        changes += changed_keys(common, {key: after[key] for key in common})
    changes += _lost(sweep, known)
    if changes:
        raise UserActionError(
            f"{storage.uri} belongs to a different sweep; changed: {'; '.join(changes)}. Only "
            "layers, coeffs, bias types, splits and models may be added: put the spec back, name "
            "another output, or use --new to start beside it"
        )


def _lost(sweep: Sweep, known: Iterable[PlannedTask]) -> list[str]:
    """Values of the grid that the output holds and the spec no longer has."""
    spec = sweep.spec
    wanted: dict[str, set[Any]] = {
        "models": set(spec.models),
        "data.splits": set(spec.data.splits),
        "data.bias_types": set(spec.data.bias_types),
        "steering.layers": set(spec.steering.layers),
        "steering.coeffs": {float(c) for c in spec.steering.coeffs},
    }
    held: dict[str, set[Any]] = {key: set() for key in wanted}
    for task in known:
        held["models"].add(task.group.model)
        held["data.splits"].add(task.group.split)
        held["data.bias_types"].add(task.group.bias_type)
        held["steering.layers"].update(layer for layer, _ in task.cells)
        held["steering.coeffs"].update(float(coeff) for _, coeff in task.cells)
    return [
        f"{key}: {', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in gone)} is gone"
        for key in wanted
        if (gone := sorted(held[key] - wanted[key]))
    ]


def _check_unused(storage: Storage) -> None:
    """Refuse a folder that holds files which no run has left."""
    for entry in storage.list():
        if not entry.key.startswith(_OURS):
            raise UserActionError(
                f"{storage.uri} is not empty and holds no run ({entry.key} is there); name a new "
                "or empty output"
            )


def _beside(spec: StorageSpec) -> StorageSpec:
    """The first of ``<output>``, ``<output>-2``, ``<output>-3``, ... that holds nothing."""
    base = spec.uri.rstrip("/")
    for number in range(1, 1000):
        uri = base if number == 1 else f"{base}-{number}"
        candidate = StorageSpec(uri, spec.s3_endpoint_url, spec.s3_region)
        if next(iter(candidate.open().list()), None) is None:
            say(f"output: {uri}")
            return candidate
    raise UserActionError(f"{base}-2 to {base}-999 are all there; name another output")


@contextmanager
def _stored_log(storage: Storage) -> Iterator[StoredLog]:
    """Everything the driver logs, kept under ``log/`` of the output."""
    log = StoredLog(storage, f"log/driver-{datetime.now(UTC):%Y%m%dT%H%M%S}.log")
    loggers = [logging.getLogger(name) for name in ("cluster", "jobs")]
    for each in loggers:
        each.addHandler(log)
        each.setLevel(logging.INFO)
        each.propagate = False
    try:
        yield log
    finally:
        for each in loggers:
            each.removeHandler(log)
        log.close()


def _headline(sweep: Sweep, num_tasks: int, num_done: int, num_rows: int) -> str:
    num_examples = sum(len(examples) for examples, _ in sweep.groups.values())
    num_cells = len(sweep.spec.steering.layers) * len(sweep.spec.steering.coeffs)
    kept = f", {num_done:,} of them done before" if num_done else ""
    return (
        f"{len(sweep.models)} model{'s' if len(sweep.models) > 1 else ''} x {num_examples:,} "
        f"examples x {num_cells} cells + baseline = {num_rows:,} cell rows in {num_tasks:,} tasks"
        f"{kept}"
    )


def _record(sweep: Sweep, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The content of ``run.json`` for this session, behind those that were before it."""
    packages = ("torch", "transformers", "ray", "pyarrow", "numpy")
    session = {
        "started": _now(),
        "host": platform.node(),
        "device": sweep.device,
        "versions": {
            "steersweep": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }
    return {
        "spec": sweep.spec.model_dump(mode="json"),
        "identity": sweep.identity(),
        "started": before["started"] if before else session["started"],
        "sessions": [*(before["sessions"] if before else []), session],
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
