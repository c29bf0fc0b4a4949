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
    ReplicaPlaced,
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

    Deadlines count the time in which this loop looked. What it slept through, in a callback that
    waits for storage or as a stopped process, is nobody's delay: the news of that time is still to
    be heard.
    """
    watched = _WatchedClock(clock)
    patience = _Patience(scheduler, watched())
    while not scheduler.finished:
        if stop_requested():
            return scheduler.outcome(interrupted=True)
        now = watched()
        scheduler.tick(now)
        for action in scheduler.actions(now):
            _apply(backend, action)
        events = backend.poll(poll_s)
        now = watched()
        for event in events:
            _log(event)
            if on_event is not None:
                on_event(event)
            task = scheduler.handle(event, now)
            if task is not None and on_finished is not None and isinstance(event, TaskFinished):
                scheduler.add(on_finished(task, event.receipt))
        if events and on_progress is not None:
            on_progress(scheduler.progress())
        patience.check(now, heard=bool(events))
    return scheduler.outcome()


_MOST_PER_LOOK_S = 5.0


class _WatchedClock:
    """Seconds that pass while somebody looks: a gap between two calls counts 5 s at most."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = self._watched = clock()

    def __call__(self) -> float:
        now = self._clock()
        self._watched += min(now - self._last, _MOST_PER_LOOK_S)
        self._last = now
        return self._watched


class _Patience:
    """Ends a run in which nothing is heard any more, or much is heard and no task ends."""

    def __init__(self, scheduler: Scheduler, now: float) -> None:
        self._scheduler = scheduler
        self._last_event = self._last_end = now
        self._num_ended = scheduler.num_ended

    def check(self, now: float, *, heard: bool) -> None:
        """Stop the scheduler where it is time to; says what is awaited."""
        scheduler, policy = self._scheduler, self._scheduler.policy
        if heard:
            self._last_event = now
        if scheduler.num_ended != self._num_ended:
            self._num_ended, self._last_end = scheduler.num_ended, now
        silent = now > self._last_event + policy.stall_s
        if silent and now > scheduler.quiet_until() + policy.stall_s:
            self._stop(f"nothing happened for {now - self._last_event:.0f} s")
        elif now > self._last_end + policy.no_progress_s:
            self._stop(f"no task ended for {now - self._last_end:.0f} s")

    def _stop(self, silence: str) -> None:
        message = f"{silence} while waiting for {self._scheduler.awaited()}"
        self._scheduler.stop(Failure(FailureKind.RUN, message))


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
        case ReplicaPlaced(slot):
            logger.info("slot %d: its replica has its place and loads", slot)
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
