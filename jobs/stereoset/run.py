"""``steersweep run``: resolve, plan, execute, summarise, and leave a record of all of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from cluster.backends.base import Backend
from cluster.driver import execute
from cluster.errors import ClusterError, StorageUnavailableError
from cluster.lease import Lease
from cluster.logs import StoredLog
from cluster.metrics import Metrics
from cluster.outcome import Outcome, SetAside
from cluster.scheduler import Scheduler
from cluster.storage import StorageSpec
from cluster.tasks import Event, Pool, Receipt, ReplicaReady, Task, WorkerFactory
from jobs.console import say, warn
from jobs.executor import Executor
from jobs.progress import RunProgress
from jobs.session import INTERRUPTED, Opened, run_session, stored_log
from jobs.signals import StopSignals
from jobs.stereoset.batch_size import tuning_key
from jobs.stereoset.forecast.session import Tally
from jobs.stereoset.inventory import Inventory
from jobs.stereoset.output import Output
from jobs.stereoset.plan import PlannedTask
from jobs.stereoset.report import report, show
from jobs.stereoset.resolve import Sweep, resolve
from jobs.stereoset.spec import StereoSetSpec
from jobs.stereoset.stages import Stages
from jobs.words import count
from steersweep.errors import UserError


def run(spec: StereoSetSpec, *, new: bool = False, figures: bool = True) -> int:
    """Run a sweep, or what an output lacks of it; returns the exit code.

    Args:
        new: start afresh beside an output that is there already.
        figures: whether the report at the end draws them.

    Raises:
        UserError: the user must change something; nothing was written then.
    """
    return run_session(spec, lambda opened: _run(spec, opened, figures), new=new)


def _run(spec: StereoSetSpec, opened: Opened, figures: bool) -> int:
    storage, stack, signals = opened.storage, opened.stack, opened.signals
    executor = Executor(spec.compute, stack)
    device = executor.device()
    sweep = resolve(spec, device)
    output = Output.read(storage, sweep)
    sweep = output.sweep
    say(_headline(sweep, output.inventory))
    for group in sweep.without_held_out:
        warn(
            f"{group} has no held-out vectors: all of its examples share one target term, so none "
            "would be left to fit from"
        )
    if output.num_left == 0:
        say("nothing left to compute")
        if not output.is_settled:
            output.claim(stack)
            report(storage, figures=figures)
            output.record.write("done")
        elif not show(storage):
            report(storage, figures=figures)
        return 0
    num_replicas = executor.num_replicas(sweep.device, output.num_left)
    tally = Tally(sweep, output.inventory)
    lease = output.claim(stack, planned=tally.planned)
    log = stack.enter_context(stored_log(storage))
    session = _Session(sweep, output, tally, lease, opened.storage_spec, log, figures)
    scheduler = Scheduler(session.pools(executor), num_replicas, executor.policy())
    backend = executor.backend(opened.storage_spec, lease.token)
    metrics = executor.metrics(storage.uri)
    return session.end(session.execute(backend, scheduler, metrics), signals)


class _Session:
    """One session of a run, under the lease."""

    def __init__(
        self,
        sweep: Sweep,
        output: Output,
        tally: Tally,
        lease: Lease,
        storage_spec: StorageSpec,
        log: StoredLog,
        figures: bool,
    ) -> None:
        self._sweep, self._storage_spec, self._log = sweep, storage_spec, log
        self._figures, self._tally = figures, tally
        self._storage, self._record, self._lease = output.storage, output.record, lease
        # What an earlier version began, it began without kernels; its outputs do not say so.
        self._begun = {task.group.model for task in output.inventory.tasks_done()}
        self._stages = Stages(sweep, output.inventory, output.storage)
        self._progress = RunProgress(
            sum(task.num_rows_cells for task in output.inventory.planned),
            output.inventory.num_rows_done,
        )

    def execute(self, backend: Backend, scheduler: Scheduler, metrics: Metrics | None) -> Outcome:
        """Execute what is missing, until it is done or the run is stopped."""
        try:
            with self._progress.shown():
                self._progress.describe("loading models")
                scheduler.add(self._stages.first_tasks())
                return execute(
                    backend,
                    scheduler,
                    on_finished=self._on_finished,
                    on_event=self._on_event,
                    on_heartbeat=self._log.write_if_due,
                    metrics=metrics,
                    stop_requested=lambda: self._lease.is_lost,
                )
        except KeyboardInterrupt:
            return scheduler.outcome(interrupted=True)
        except (ClusterError, UserError) as error:
            self._write_stopped(error)
            raise

    def end(self, outcome: Outcome, signals: StopSignals) -> int:
        """Write down how it ended, then report; returns the exit code.

        Raises:
            UserError: the user must act, or another driver has taken over.
        """
        if signals.number is not None:
            self._storage.hasten()  # a user is waiting
            with suppress(StorageUnavailableError):
                self._record.write("interrupted", **self._speed(), **outcome.losses.as_record())
            say(INTERRUPTED)
            return signals.exit_code
        if not self._lease.still_held():
            # Its record is that other driver's to write.
            raise UserError(
                f"another driver has taken over {self._storage.uri}; see `steersweep status`"
            )
        return self._end(outcome)

    def _on_finished(self, task: Task, receipt: Receipt) -> Iterable[Task]:
        planned = self._stages.planned(task.id)
        self._progress.advance(planned.num_rows_cells)
        self._tally.add(planned, receipt)
        return self._stages.after(task.id)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ReplicaReady):
            self._record.saw_replica(event.facts)
            self._progress.begin()
        self._log.write_if_due()

    def _speed(self) -> dict[str, Any]:
        """What the record says of the session so far."""
        elapsed_s = self._progress.elapsed_s
        return {
            "rows_per_s": self._progress.rows_per_s,
            "actual": self._tally.actual(elapsed_s),
        }

    def _write_stopped(self, error: Exception) -> None:
        with suppress(ClusterError):  # the error at hand says more
            self._record.write("stopped", reason=str(error), **self._speed())

    def _end(self, outcome: Outcome) -> int:
        speed = self._speed() | outcome.losses.as_record()
        lost = str(outcome.losses)
        if outcome.stop is not None:
            reason = outcome.stop.message
            self._record.write("stopped", reason=reason, **speed)
            if outcome.stop.user_must_act:
                raise UserError(reason)
            if lost:
                say(lost)
            warn(f"the run stopped: {reason}; finished work is kept")
            return 1
        set_aside = [_described(self._stages.planned(e.task.id), e) for e in outcome.set_aside]
        say(self._progress.last_line())
        try:
            report(self._storage, set_aside, figures=self._figures)
        except (ClusterError, UserError) as error:
            self._write_stopped(error)
            raise
        if lost:
            say(lost)
        # Last, as a run that is done is not reported again.
        self._record.write("failed tasks" if set_aside else "done", set_aside=set_aside, **speed)
        for entry in set_aside:
            warn(
                f"set aside: {entry['group']}, shard {entry['shard']} ({entry['table']}): "
                f"{entry['reason']}"
            )
        return 1 if set_aside else 0

    def pools(self, executor: Executor) -> list[Pool]:
        """A pool of replicas for each model."""
        sweep, compute = self._sweep, self._sweep.spec.compute
        share = executor.share(sweep.device)
        return [
            Pool(
                name=name,
                factory=WorkerFactory(
                    "jobs.stereoset.worker:StereoSetWorker",
                    {
                        "source": model.source,
                        "protocol": sweep.protocol,
                        "layers": sweep.spec.steering.layers,
                        "measures": sweep.spec.measures,
                        "device": sweep.device,
                        "dtype": model.dtype,
                        "num_threads": compute.num_threads,
                        "gpu_share": share.gpu_share,
                        "storage": self._storage_spec,
                        "certificate": sweep.spec.certificate,
                        "tuning_key": tuning_key(name),
                        "accelerate": compute.accelerate == "auto" and name not in self._begun,
                    },
                ),
                share=share,
            )
            for name, model in sweep.models.items()
        ]


def _described(task: PlannedTask, entry: SetAside) -> dict[str, Any]:
    return {
        "task_id": entry.task.id,
        "table": task.tables[-1],
        "group": str(task.group),
        "shard": task.shard,
        "reason": entry.reason,
    }


def _headline(sweep: Sweep, inventory: Inventory) -> str:
    num_examples = sum(len(examples) for examples, _ in sweep.groups.values())
    num_cells = len(sweep.spec.steering.layers) * len(sweep.spec.steering.coeffs)
    twice = ", in-sample and held out" if sweep.has_held_out else ""
    num_rows = sum(task.num_rows_cells for task in inventory.planned)
    kept = f", {len(inventory.done):,} of them done before" if inventory.done else ""
    return (
        f"{count(len(sweep.models), 'model')} x {count(num_examples, 'example')} x "
        f"{count(num_cells, 'cell')}{twice} + baseline = {count(num_rows, 'row')} in "
        f"{count(len(inventory.planned), 'task')}{kept}"
    )
