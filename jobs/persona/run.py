"""``steersweep run`` of a persona sweep: one session, under the output's lease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from cluster.backends.base import Backend
from cluster.driver import execute
from cluster.errors import ClusterError, StorageUnavailableError
from cluster.lease import Lease
from cluster.ledger import Ledger
from cluster.logs import StoredLog
from cluster.metrics import Metrics
from cluster.outcome import Losses, SetAside
from cluster.scheduler import Scheduler
from cluster.storage import Storage
from cluster.tasks import Event, Pool, Receipt, ReplicaReady, Task, WorkerFactory
from jobs.console import say, warn
from jobs.examples_file import EXAMPLES_KEY, write_examples
from jobs.executor import Executor
from jobs.persona.earlier import (
    ids_of,
    refuse_other_sweep,
    refuse_unfinished,
    rows_per_task_of,
)
from jobs.persona.examples import sweep_examples
from jobs.persona.index import INDEX_KEY, ROWS_PER_TASK_KEY
from jobs.persona.judges import Judge, Scorer, open_judge
from jobs.persona.judges.spec import LocalJudgeSpec
from jobs.persona.pipeline import FailedVerdictsError, Pipeline
from jobs.persona.plan import JUDGE_POOL, hook_point, most_tasks
from jobs.persona.report import report
from jobs.persona.resolve import IDS_VERSION, PersonaSweep, resolve
from jobs.persona.spec import PersonaSpec
from jobs.persona.stage import Stage
from jobs.record import Record
from jobs.same_sweep import changes_of, different_sweep
from jobs.session import LOCK_KEY, Opened, run_session, stored_log
from jobs.words import count
from steersweep.errors import UserError

_OLD_TEMPORARY_S = 3600.0
_OURS = (
    LOCK_KEY,
    INDEX_KEY,
    EXAMPLES_KEY,
    "log/",
    "answers/",
    "judge/",
    "scores/",
    "sums/",
    "vectors/",
    "projections/",
    "summary/",
    "figures/",
    "report.html",
)
"""What may be left where run.json is lost: parts are found by what they were made of."""


class SetAsideError(Exception):
    """Tasks of a stage failed; what is finished is kept, and later stages need them."""

    def __init__(self, what: str, set_aside: Sequence[SetAside]) -> None:
        super().__init__(f"{what}: {len(set_aside)} tasks failed")
        self.entries = [
            {"task_id": entry.task.id, "table": what, "reason": entry.reason} for entry in set_aside
        ]


def run(spec: PersonaSpec, *, new: bool = False, figures: bool = True) -> int:
    """Run a sweep, or what an output lacks of it; returns the exit code.

    Args:
        new: start afresh beside an output that is there already.
        figures: whether the report at the end draws them.

    Raises:
        UserError: the user must change something.
    """
    return run_session(spec, lambda opened: _Session(spec, opened, figures).run(), new=new)


class _Session:
    def __init__(self, spec: PersonaSpec, opened: Opened, figures: bool) -> None:
        self._figures = figures
        self._storage_spec, self._storage = opened.storage_spec, opened.storage
        self._stack = opened.stack
        self._executor = Executor(spec.compute, opened.stack)
        device = self._executor.device()
        ids = ids_of(self._storage)
        refuse_unfinished(self._storage, ids)
        self._sweep = resolve(spec, device, ids, rows_per_task_of(self._storage))
        self._running: tuple[Backend, Scheduler] | None = None
        self._metrics: Metrics | None = None
        self._log: StoredLog | None = None
        self._losses = Losses()
        self._lease: Lease | None = None
        self._record: Record | None = None
        self._num_replicas: int | None = None
        self._has_begun = False
        self._told_slow: set[str] = set()

    def run(self) -> int:
        """Claim the output, run every stage, write the summary and the record."""
        sweep = self._sweep
        ledger = Ledger(self._storage)
        before = ledger.read_record()
        if sweep.ids < IDS_VERSION:
            return self._report_earlier()
        _check_same(self._storage, before, sweep)
        traits = [trait.trait for trait in sweep.traits.values()]
        judge = open_judge(sweep.spec.judge, traits, sweep.device)
        if before is None or before["outcome"] != "done":
            if not judge.needs_replica:
                judge.check()
            self._num_replicas = self._find_room()
        for line in _headlines(sweep):
            say(line)
        self._storage.check_writable()
        self._lease = self._stack.enter_context(Lease.acquire(self._storage, LOCK_KEY))
        record = self._record = Record(
            ledger, sweep, before, {ROWS_PER_TASK_KEY: sweep.rows_per_task}
        )
        record.write("running")
        self._storage.clean_temporaries(_OLD_TEMPORARY_S)
        write_examples(self._storage, sweep_examples(sweep))
        self._log = self._stack.enter_context(stored_log(self._storage))
        try:
            return self._stages(record, judge)
        except KeyboardInterrupt:
            self._storage.hasten()
            with suppress(StorageUnavailableError):
                record.write("interrupted", **self._losses.as_record())
            raise
        except (ClusterError, UserError) as error:
            with suppress(ClusterError):  # the error at hand says more
                record.write("stopped", reason=str(error), **self._losses.as_record())
            raise

    def _report_earlier(self) -> int:
        """Report a finished output of earlier ids from its own index; nothing is computed."""
        refuse_other_sweep(self._storage, self._sweep)
        say(f"{self._storage.uri} is finished; an earlier version of steersweep computed it")
        report(self._storage, figures=self._figures)
        return 0

    def _stages(self, record: Record, judge: Judge) -> int:
        scorer = Scorer(judge, self._storage)
        pipeline = Pipeline(self._sweep, self._storage, scorer, self._execute)
        try:
            parts = pipeline.run()
        except SetAsideError as error:
            record.write("failed tasks", set_aside=error.entries, **self._losses.as_record())
            for entry in error.entries:
                warn(f"set aside: {entry['table']}: {entry['reason']}")
            return 1
        except FailedVerdictsError as error:
            record.write("failed tasks", reason=str(error), **self._losses.as_record())
            warn(str(error))
            return 1
        finally:
            if scorer.usage.num_calls or scorer.usage.num_cached:
                say(scorer.cost_line())
        report(self._storage, parts, figures=self._figures)
        if lost := str(self._losses):
            say(lost)
        record.write("done", **self._losses.as_record())
        return 0

    def _execute(self, stage: Stage, tasks: Sequence[Task]) -> None:
        """Run tasks to their end.

        Raises:
            SetAsideError: some failed for good.
            UserError: the run must stop.
        """
        assert self._lease is not None and self._record is not None, "not claimed"
        lease, record = self._lease, self._record
        if self._running is None:
            # One scheduler for all stages: replicas keep their models from one to the next.
            num_replicas = self._num_replicas or self._find_room()
            backend = self._executor.backend(self._storage_spec, lease.token)
            scheduler = Scheduler(self._pools(), num_replicas, self._executor.policy())
            self._metrics = self._executor.metrics(self._storage.uri)
            self._running = backend, scheduler
        backend, scheduler = self._running
        scheduler.add(tasks)

        def on_finished(task: Task, _receipt: Receipt) -> list[Task]:
            stage.finished(task)
            return []

        def on_event(event: Event) -> None:
            if isinstance(event, ReplicaReady):
                record.saw_replica(event.facts)
                self._warn_if_slow(event.facts)
                if not self._has_begun:
                    self._has_begun = True
                    stage.progress.begin()

        with stage.shown(waits=not self._has_begun):
            outcome = execute(
                backend,
                scheduler,
                on_finished=on_finished,
                on_heartbeat=self._log.write_if_due if self._log is not None else None,
                metrics=self._metrics,
                on_event=on_event,
                stop_requested=lambda: lease.is_lost,
            )
        self._losses = outcome.losses
        if not lease.still_held():
            raise UserError(
                f"another driver has taken over {self._storage.uri}; see `steersweep status`"
            )
        if outcome.stop is not None:
            raise UserError(f"{outcome.stop.message}; finished work is kept")
        if outcome.set_aside:
            raise SetAsideError(str(stage), outcome.set_aside)

    def _warn_if_slow(self, facts: Mapping[str, str]) -> None:
        """Once for each model that is not generated with in slots."""
        how = facts.get("answers", "in slots")  # a judge's replica has none
        if how != "in slots" and how not in self._told_slow:
            self._told_slow.add(how)
            warn(f"answers are generated {how}; that is many times slower, as nothing is cached")

    def _find_room(self) -> int:
        return self._executor.num_replicas(self._sweep.device, most_tasks(self._sweep))

    def _pools(self) -> list[Pool]:
        compute = self._sweep.spec.compute
        tokens, judge = compute.tokens_per_batch, self._sweep.spec.judge
        share = self._executor.share(self._sweep.device)
        common = {
            "device": self._sweep.device,
            "num_threads": compute.num_threads,
            "gpu_share": share.gpu_share,
            "storage": self._storage_spec,
        }
        factories = {
            name: WorkerFactory(
                "jobs.persona.worker:PersonaWorker",
                {
                    "source": model.source,
                    "eos_ids": model.eos_ids,
                    "generation": self._sweep.spec.generation,
                    "dtype": model.dtype,
                    "tokens_per_batch": None if tokens == "auto" else tokens,
                    **common,
                },
            )
            for name, model in self._sweep.models.items()
        }
        if isinstance(judge, LocalJudgeSpec):
            factories[JUDGE_POOL] = WorkerFactory(
                "jobs.persona.verdicts:JudgeWorker", {"judge": judge, **common}
            )
        return [
            Pool(name=name, factory=factory, share=share) for name, factory in factories.items()
        ]


def _check_same(storage: Storage, record: Mapping[str, Any] | None, sweep: PersonaSweep) -> None:
    """Refuse an output of another sweep; models, traits and the grid may grow."""
    if record is None:
        for entry in storage.list():
            if not entry.key.startswith(_OURS):
                raise UserError(
                    f"{storage.uri} is not empty but holds no run (it contains {entry.key}); "
                    "choose a new or empty output"
                )
        return
    if changes := changes_of(record["identity"], sweep.identity()):
        may_grow = "models, traits, layers, coeffs and positions"
        raise different_sweep(storage.uri, changes, may_grow)


def _headlines(sweep: PersonaSweep) -> list[str]:
    grid = sweep.spec.steering
    cells = len(grid.layers) * len(grid.coeffs) * len(grid.positions)
    return [
        f"{count(len(sweep.models), 'model')} x {count(len(sweep.traits), 'trait')} x "
        f"{count(cells, 'cell')}; judge: {sweep.spec.judge.kind}",
        *(
            f"layer {layer} is {hook_point(layer)}: ActivationSteerer(layer={layer - 1}), row "
            f"{layer} of a persona_vectors file"
            for layer in grid.layers
        ),
    ]
