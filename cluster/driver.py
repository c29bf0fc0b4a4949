"""The loop that joins a scheduler to a backend."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from cluster.backends.base import Backend
from cluster.metrics import Heartbeat, Metrics, memory_bytes
from cluster.outcome import Outcome
from cluster.scheduler import Scheduler
from cluster.side_work import SideWork
from cluster.tasks import (
    Action,
    Event,
    Failure,
    FailureKind,
    Receipt,
    ReplicaDraining,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    RoomChanged,
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
    side_work: SideWork | None = None,
    on_heartbeat: Callable[[], None] | None = None,
    metrics: Metrics | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    poll_s: float = 0.2,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Run every task of the scheduler, and those that follow from them; returns how it ended.

    `on_finished` is called once for each task that is done and returns the tasks that follow from
    it. What takes long goes to `side_work`, which returns its tasks later; the run is not over
    while it is busy. `on_event` sees every event, `on_heartbeat` follows each line that the log
    gets every minute. What these callbacks raise ends the run and reaches the caller; failures of
    tasks and replicas never do. Returns at once when `stop_requested()` turns true, or the
    scheduler stops: what is in flight is left to `backend.close()`, what is committed stays.

    Deadlines count the time in which this loop looked. What it slept through, in a callback that
    waits for storage or as a stopped process, is nobody's delay: the news of that time is still to
    be heard.
    """
    watched = _WatchedClock(clock)
    patience = _Patience(scheduler, watched())
    teller = _Teller(scheduler, metrics, watched.real)
    wait_s = 0.0  # what was under way when the loop before this one ended may be done by now
    while True:
        if stop_requested():
            return scheduler.outcome(interrupted=True)
        if side_work is not None:
            scheduler.add(side_work.poll())
        is_beside = side_work is not None and side_work.is_busy
        if scheduler.finished and (scheduler.stopped or not is_beside):
            break
        # Tasks that follow from side work should not wait for the end of a long poll.
        events = backend.poll(min(wait_s, _SIDE_POLL_S) if is_beside else wait_s)
        now, wait_s = watched(), poll_s
        for event in events:
            _log(event)
            if on_event is not None:
                on_event(event)
            task = scheduler.handle(event, now)
            teller.saw(event, task)
            if task is not None and on_finished is not None and isinstance(event, TaskFinished):
                scheduler.add(on_finished(task, event.receipt))
        patience.check(now, heard=bool(events))
        if teller.tell(watched.real) and on_heartbeat is not None:
            on_heartbeat()
        now = watched()
        scheduler.tick(now)
        for action in scheduler.actions(now):
            _apply(backend, action)
    teller.tell(watched.real, is_last=True)
    return scheduler.outcome()


_SIDE_POLL_S = 0.02
_MOST_PER_LOOK_S = 5.0
_REPORT_S = 5.0


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

    @property
    def real(self) -> float:
        """What the clock said at the last call."""
        return self._last


class _Teller:
    """Tells the log every minute, and a monitor every few seconds, how the run goes on."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics | None, now: float) -> None:
        self._scheduler, self._metrics = scheduler, metrics
        self._heartbeat = Heartbeat(now)
        self._reported_at = now

    def saw(self, event: Event, task: Task | None) -> None:
        """An event, and the task that it brought to its end."""
        if self._metrics is not None:
            self._metrics.saw(event)
            if task is not None and isinstance(event, TaskFinished):
                self._metrics.finished(task, event.receipt)

    def tell(self, now: float, *, is_last: bool = False) -> bool:
        """Tell what is due; whether the log was told."""
        if not is_last and now < self._reported_at + _REPORT_S:
            return False
        self._reported_at = now
        progress = self._scheduler.progress()
        self._heartbeat.look(progress, now)
        if self._metrics is not None:
            self._metrics.report(progress, self._heartbeat.rows_per_s, memory_bytes())
        is_due = self._heartbeat.is_due(now)
        if is_due:
            logger.info("%s", self._heartbeat.line(progress, now))
        return is_due


class _Patience:
    """Ends a run in which nothing is heard any more, or much is heard and no task ends."""

    def __init__(self, scheduler: Scheduler, now: float) -> None:
        self._scheduler = scheduler
        self._last_event = self._last_end = now
        self._num_ended = scheduler.num_ended

    def check(self, now: float, *, heard: bool) -> None:
        """Stop the scheduler where it is time to; says what is awaited."""
        scheduler, policy = self._scheduler, self._scheduler.policy
        if scheduler.finished:
            # Replicas that have nothing to do while side work goes on are not silent.
            self._last_event = self._last_end = now
            return
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
        case ReplicaDraining(slot, seconds_left):
            logger.warning("slot %d: its node will be gone in %.0f s", slot, seconds_left)
        case RoomChanged(num_replicas):
            logger.info("the cluster has room for %d replicas", num_replicas)
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
