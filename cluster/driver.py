"""The loop that joins a scheduler to a backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from cluster.backends.base import Backend
from cluster.outcome import Outcome, Progress
from cluster.scheduler import Scheduler
from cluster.tasks import (
    Action,
    Event,
    Failure,
    FailureKind,
    Receipt,
    ReplicaLost,
    ReplicaReady,
    RunTask,
    StartReplica,
    StopReplica,
    Task,
    TaskFailed,
    TaskFinished,
)

logger = logging.getLogger(__name__)


def execute(
    backend: Backend,
    scheduler: Scheduler,
    *,
    on_finished: Callable[[Task, Receipt], Iterable[Task]] | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    poll_s: float = 0.2,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Run every task of the scheduler, and those that `on_finished` adds; returns how it ended.

    `on_finished` is called once for each task that is done and returns the tasks that follow from
    it. `on_event` sees every event, `on_progress` the counts after each batch of them. What these
    callbacks raise ends the run and reaches the caller; failures of tasks and replicas never do.
    Returns at once when `stop_requested()` turns true, or the scheduler stops: what is in flight
    is left to `backend.close()`, what is committed stays.
    """
    last_event = clock()
    while not scheduler.finished:
        if stop_requested():
            return scheduler.outcome(interrupted=True)
        now = clock()
        scheduler.tick(now)
        for action in scheduler.actions(now):
            _apply(backend, action)
        events = backend.poll(poll_s)
        now = clock()
        for event in events:
            last_event = now
            _log(event)
            if on_event is not None:
                on_event(event)
            task = scheduler.handle(event, now)
            if task is not None and on_finished is not None and isinstance(event, TaskFinished):
                scheduler.add(on_finished(task, event.receipt))
        if events:
            if on_progress is not None:
                on_progress(scheduler.progress())
        elif now > max(last_event, scheduler.quiet_until()) + scheduler.policy.stall_s:
            silence = f"nothing happened for {now - last_event:.0f} s"
            message = f"{silence} while waiting for {scheduler.awaited()}"
            scheduler.stop(Failure(FailureKind.RUN, message))
    return scheduler.outcome()


def _apply(backend: Backend, action: Action) -> None:
    match action:
        case StartReplica(slot, pool):
            logger.info("slot %d: starting a replica of %s", slot, pool.name)
            backend.start(slot, pool)
        case RunTask(slot, task, attempt):
            logger.info("slot %d: task %s, attempt %s", slot, task.id, attempt)
            backend.submit(slot, task, attempt)
        case StopReplica(slot):
            logger.info("slot %d: stopping its replica", slot)
            backend.stop(slot)


def _log(event: Event) -> None:
    match event:
        case ReplicaReady(slot, facts):
            said = ", ".join(f"{name} {value}" for name, value in facts.items())
            logger.info("slot %d: ready (%s)", slot, said)
        case ReplicaLost(slot, failure):
            logger.warning("slot %d: replica lost (%s): %s", slot, failure.kind, failure.message)
            logger.debug("slot %d: %s", slot, failure.details)
        case TaskFinished(slot, receipt):
            rows, took = receipt.num_rows, receipt.duration_s
            logger.info("slot %d: %s done, %d rows, %.1f s", slot, receipt.task_id, rows, took)
        case TaskFailed(slot, task_id, failure):
            said = failure.message
            logger.warning("slot %d: %s failed (%s): %s", slot, task_id, failure.kind, said)
            logger.info("slot %d: %s", slot, failure.details)
