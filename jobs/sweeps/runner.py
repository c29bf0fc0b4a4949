"""The run loop of every job: open the output, claim it, run what is left, report, and record how it
ended.

What holds for any run:

- nothing is written before the sweep is resolved, the output is known to belong to it and its parts
  are checked;
- one driver holds the output (a lease), and only over the record that it has read does it write its
  own;
- the loop itself never waits for storage, a fit or a judge: that is ``cluster.side_work``;
- whatever ends a session (done, failed tasks, a signal, an error), finished parts stay,
  ``run.json`` says how it ended, and the same command resumes it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from cluster.backends.base import Backend
from cluster.checked import write_checked
from cluster.driver import execute
from cluster.errors import ClusterError, StorageUnavailableError
from cluster.lease import Lease
from cluster.logs import StoredLog
from cluster.outcome import Losses, Outcome
from cluster.replica import Replica
from cluster.scheduler import Scheduler
from cluster.side_work import SideWork
from cluster.storage import Storage
from cluster.tasks import Event, Failure, FailureKind, Pool, Receipt, ReplicaReady, Task
from jobs.advice import advised
from jobs.console import say, warn
from jobs.examples_file import write_examples
from jobs.spec import JobSpec
from jobs.sweeps.executor import Executor
from jobs.sweeps.job import AnyJob, DriverPool, Files, Replicas, StoredOutput, Sweep, Workflow
from jobs.sweeps.progress import RunProgress
from jobs.sweeps.record import Record
from jobs.sweeps.report import ReportOptions
from jobs.sweeps.same_sweep import check_same_sweep
from jobs.sweeps.session import INTERRUPTED, LOCK_KEY, Opened, run_session, stored_log
from jobs.sweeps.signals import StopSignals
from jobs.sweeps.status import set_aside_words
from jobs.sweeps.steps import Steps
from steersweep.errors import StopRunError, UserError

_OLD_TEMPORARY_S = 3600.0
_STEPS = "steps"
"""The lane in which what follows from finished tasks is found out, a task after the other."""
_PATIENCE_S = 15.0
"""So long an interrupted run waits for a thread of the driver: what was asked of a judge may be
paid for."""


def run(job: AnyJob, spec: JobSpec, *, new: bool = False, figures: bool = True) -> int:
    """Run a sweep, or what an output lacks of it; returns the exit code.

    Args:
        new: start afresh in the first free of ``<output>``, ``<output>-2``, ...
        figures: whether the report at the end draws them.

    Raises:
        UserError: the user must change something; nothing was written then.
    """
    return run_session(spec, lambda opened: _run(job, spec, opened, figures), new=new)


def _run(job: AnyJob, spec: JobSpec, opened: Opened, figures: bool) -> int:
    executor = Executor(spec.compute, opened.stack)
    output = job.open(StoredOutput.read(opened.storage))
    sweep = job.resolve(spec, executor.device(), output)
    check_same_sweep(job, sweep, output)
    files = Files(opened.storage)
    workflow = job.workflow(sweep, output, files)
    steps = Steps(workflow.stored)
    ready = steps.begin(workflow.steps())
    files.settle()
    for line in workflow.headlines():
        say(line)
    for line in workflow.warnings():
        warn(line)
    record = Record(output.ledger, sweep, output.record, workflow.record())
    session = _Session(job, workflow, steps, files, record, opened, figures)
    if not ready:
        return session.without_tasks(was_done=output.record is not None and _is_done(output.record))
    workflow.check()
    if not workflow.needs_replicas(ready):
        executor = executor.without_replicas()
    num_replicas = executor.num_replicas(sweep.device, workflow.most_tasks())
    return session.with_tasks(sweep, executor, num_replicas, ready)


def _is_done(record: Mapping[str, Any]) -> bool:
    return bool(record["outcome"] == "done")


class _Session:
    """One session of a run."""

    def __init__(
        self,
        job: AnyJob,
        workflow: Workflow,
        steps: Steps,
        files: Files,
        record: Record,
        opened: Opened,
        figures: bool,
    ) -> None:
        self._job, self._workflow, self._steps = job, workflow, steps
        self._files, self._record, self._opened = files, record, opened
        self._storage: Storage = opened.storage
        self._figures = figures
        self._progress = RunProgress(workflow.totals(), steps)
        self._side = SideWork()
        self._driver_pools: dict[str, _DriverPool] = {}
        self._set_aside: list[Mapping[str, Any]] = []
        self._log: StoredLog | None = None
        self._lease: Lease | None = None
        self._is_open = False
        """The record says that this session runs, and is this session's to write."""

    def without_tasks(self, *, was_done: bool) -> int:
        """Nothing is left to compute: show the report, or make it."""
        say("nothing left to compute")
        output = self._job.open(StoredOutput.read(self._storage))
        if self._workflow.is_read_only:
            self._report()
        elif not (was_done and self._workflow.is_settled and self._files.is_empty):
            with self._recorded():
                self._claim(self._opened.stack)
                self._report(set_aside=())  # of this session, which is under way by its record
                self._end_record("done")
        elif not self._job.show(output):
            self._report()
        return 0

    def with_tasks(
        self, sweep: Sweep, executor: Executor, num_replicas: int, ready: Sequence[Task]
    ) -> int:
        """Run tasks, and all that follow from them, to their end."""
        opened, stack = self._opened, self._opened.stack
        try:
            with self._recorded():
                lease = self._claim(stack)
                self._log = stack.enter_context(stored_log(self._storage))
                replicas = Replicas(opened.storage_spec, executor.share(sweep.device))
                pools: list[Pool] = []
                for pool in self._workflow.pools(replicas):
                    if isinstance(pool, DriverPool):
                        self._driver_pools[pool.name] = _DriverPool(pool, self._storage)
                    else:
                        pools.append(pool)
                scheduler = Scheduler(pools, num_replicas, executor.policy())
                backend = executor.backend(opened.storage_spec, lease.token)
                metrics = executor.metrics(self._storage.uri)
                outcome = self._execute(backend, scheduler, metrics, lease, ready)
                return self._end(outcome, lease, opened.signals)
        finally:
            for line in self._workflow.last_lines():
                say(line)

    def _claim(self, stack: ExitStack) -> Lease:
        """Hold the output for as long as the stack is open, and write the plan down.

        The record comes first: it says whose the output is before anything else is there, and is
        refused if another driver has written its own since this one looked.

        Raises:
            UserError: the storage cannot be written to, or another driver holds it.
        """
        self._storage.check_writable()
        lease = self._lease = stack.enter_context(Lease.acquire(self._storage, LOCK_KEY))
        before = {"rows_before": sum(of.done for of in self._progress.stages()[:1])}
        self._record.write("running", **{**before, **self._workflow.planned()})
        self._is_open = True
        self._storage.clean_temporaries(_OLD_TEMPORARY_S)
        write_checked(self._storage, self._workflow.stored.checked)
        for key, texts in self._workflow.texts().items():
            write_examples(self._storage, texts, key)
        self._workflow.write_plan()
        self._files.release()
        return lease

    # -- while tasks run ------------------------------------------------------------------------

    def _execute(
        self,
        backend: Backend,
        scheduler: Scheduler,
        metrics: Any,
        lease: Lease,
        ready: Sequence[Task],
    ) -> Outcome:
        try:
            with advised(), self._progress.shown():
                self._progress.describe("loading models")
                scheduler.add(self._for_replicas(ready))
                return execute(
                    backend,
                    scheduler,
                    on_finished=self._on_finished,
                    on_event=self._on_event,
                    on_heartbeat=None if self._log is None else self._log.write_if_due,
                    side_work=self._side,
                    metrics=metrics,
                    stop_requested=lambda: lease.is_lost,
                )
        except KeyboardInterrupt:
            self._storage.hasten()  # a user is waiting, also for what side work still stores
            return scheduler.outcome(interrupted=True)
        except (ClusterError, UserError) as error:
            # Before side work is waited for: whoever looks meanwhile should not see a running one.
            self._write_ended("stopped", reason=str(error))
            raise
        finally:
            self._workflow.stop()
            self._side.close(_PATIENCE_S)

    def _for_replicas(self, tasks: Iterable[Task]) -> list[Task]:
        """The tasks that replicas run; the driver's own go to their threads."""
        rest = []
        for task in tasks:
            if task.pool in self._driver_pools:
                self._side.submit(task.pool, lambda task=task: self._run_here(task))  # type: ignore[misc]
            else:
                rest.append(task)
        return rest

    def _run_here(self, task: Task) -> Sequence[Task]:
        """Run a task of the driver's own, in its thread."""
        step = self._steps.step_of(task)
        outcome = self._driver_pools[task.pool].run(task)
        if isinstance(outcome, Failure):
            self._set_aside.append(self._workflow.set_aside(task, step, outcome.message))
        else:
            self._progress.begin(on_replica=False)
            self._on_finished(task, outcome)
        return ()

    def _on_finished(self, task: Task, receipt: Receipt) -> Sequence[Task]:
        self._workflow.done(task, receipt)
        self._side.submit(_STEPS, lambda: self._for_replicas(self._follow(task)))
        return ()

    def _follow(self, task: Task) -> list[Task]:
        tasks = self._steps.finished(task)
        self._progress.moved()
        return tasks

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ReplicaReady):
            self._record.saw_replica(event.facts)
            for line in self._workflow.replica_warnings(event.facts):
                warn(line)
            self._progress.begin()
        if self._log is not None:
            self._log.write_if_due()

    # -- the end --------------------------------------------------------------------------------

    def _end(self, outcome: Outcome, lease: Lease, signals: StopSignals) -> int:
        """Write down how it ended, then report; returns the exit code.

        Raises:
            UserError: the user must act, or another driver has taken over.
        """
        if signals.number is not None:
            self._storage.hasten()
            with suppress(StorageUnavailableError):
                self._end_record("interrupted", **self._facts(outcome.losses))
            say(INTERRUPTED)
            return signals.exit_code
        if not lease.still_held():
            self._is_open = False  # its record is that other driver's to write
            raise UserError(
                f"another driver has taken over {self._storage.uri}; see `steersweep status`"
            )
        facts, lost = self._facts(outcome.losses), str(outcome.losses)
        if outcome.stop is not None:
            reason = outcome.stop.message
            self._end_record("stopped", reason=reason, **facts)
            if outcome.stop.user_must_act:
                raise UserError(reason)
            if lost:
                say(lost)
            warn(f"the run stopped: {reason}; finished work is kept")
            return 1
        for entry in outcome.set_aside:
            step = self._steps.step_of(entry.task)
            self._set_aside.append(self._workflow.set_aside(entry.task, step, entry.reason))
        for line in self._progress.last_lines():
            say(line)
        self._report(self._set_aside)
        if lost:
            say(lost)
        # Last, as a run that is done is not reported again.
        ended = "failed tasks" if self._set_aside else "done"
        self._end_record(ended, set_aside=self._set_aside, **facts)
        for failed in self._set_aside:
            warn(f"set aside: {set_aside_words(failed)}")
        return 1 if self._set_aside else 0

    def _report(self, set_aside: Sequence[Mapping[str, Any]] | None = None) -> None:
        options = ReportOptions(figures=self._figures, set_aside=set_aside)
        self._job.report(self._job.open(StoredOutput.read(self._storage)), options)

    def _facts(self, losses: Losses) -> dict[str, Any]:
        """What the record says of the session so far."""
        return {
            "rows_per_s": self._progress.items_per_s,
            **self._workflow.session(self._progress.elapsed_s),
            **losses.as_record(),
        }

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Have the record say how the session ended, if a signal or an error ends it.

        That may be anywhere after the output was claimed: while files are written, while a judge
        is opened, in the report.
        """
        try:
            with advised():
                yield
        except KeyboardInterrupt:
            self._storage.hasten()  # a user is waiting
            self._write_ended("interrupted")
            raise
        except (ClusterError, UserError) as error:
            self._write_ended("stopped", reason=str(error))
            raise

    def _write_ended(self, outcome: str, **more: Any) -> None:
        """Write how the session ended, unless it is written or not this driver's to write."""
        if not self._is_open or (self._lease is not None and self._lease.is_lost):
            return
        with suppress(ClusterError):  # the error at hand says more
            self._end_record(outcome, **more, **self._facts(Losses()))

    def _end_record(self, outcome: str, **more: Any) -> None:
        self._record.write(outcome, **more)
        self._is_open = False


class _DriverPool:
    """Runs tasks in this process, and commits their parts as a replica does."""

    def __init__(self, pool: DriverPool, storage: Storage) -> None:
        self._replica = Replica.holding(pool.worker, storage)

    def run(self, task: Task) -> Receipt | Failure:
        """The receipt, or why the task alone failed.

        Raises:
            UserError: no task of the pool can succeed any more.
        """
        outcome = self._replica.run(task, f"driver-{uuid.uuid4().hex[:8]}")
        if isinstance(outcome, Failure) and outcome.kind is not FailureKind.TASK:
            if outcome.user_must_act or outcome.kind is FailureKind.STORAGE:
                raise StopRunError(outcome.message)
            raise ClusterError(outcome.message)
        return outcome
