"""Decides what runs where and what a failure means: a state machine without Ray or a clock.

Time is passed in, in seconds of any monotonic clock, and events are facts that a backend saw.
So thousands of schedules of crash, hang, preemption and lost reply run in a test within seconds.

One turn of the loop that drives it:

    events -> handle(event, now) ... -> add(follow-up tasks) -> tick(now) -> actions(now) -> backend

A slot holds one replica at a time. A replica is sent work only after it said that it is ready, and
one task at a time, so that a lost replica is charged to the task that ran on it and to no other.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Sequence

from cluster.breaker import Breaker
from cluster.outcome import Outcome, Progress
from cluster.policy import Policy
from cluster.slots import Slot, SlotState, pool_for_empty_slot, pool_for_idle_slot
from cluster.starts import StartBook
from cluster.task_book import TaskBook, TaskRecord, TaskState
from cluster.tasks import (
    REPLICA_IS_LOST,
    Action,
    Event,
    Failure,
    FailureKind,
    Pool,
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


def _random_suffix() -> str:
    return uuid.uuid4().hex[:8]


class Scheduler:
    """The state of one run: its tasks, its slots, and why it stopped."""

    def __init__(
        self,
        pools: Sequence[Pool],
        num_slots: int,
        policy: Policy | None = None,
        *,
        attempt_suffix: Callable[[], str] = _random_suffix,
    ) -> None:
        """`num_slots` replicas at most at a time, over all pools; ValueError below 1."""
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}")
        self.policy = policy or Policy()
        self._rng = random.Random(self.policy.seed)  # noqa: S311  (jitter, not secrets)
        self._pools = {pool.name: pool for pool in pools}
        if len(self._pools) != len(pools):
            raise ValueError(f"pool names must differ, got {[pool.name for pool in pools]}")
        self._book = TaskBook(self._pools, self.policy, self._rng, attempt_suffix)
        self._slots = [Slot(index) for index in range(num_slots)]
        self._breaker = Breaker(self.policy)
        self._starts = StartBook(self.policy, self._slots)
        self._num_replicas = 0
        self._slowest: dict[str, float] = {}
        self._stops: list[StopReplica] = []
        self._stop: Failure | None = None

    # -- what the caller tells ------------------------------------------------------------------

    def add(self, tasks: Iterable[Task]) -> None:
        """Queue tasks, at any time; ValueError for an id seen before or an unknown pool."""
        for task in tasks:
            self._book.add(task)

    def handle(self, event: Event, now: float) -> Task | None:
        """Take in one event; returns the task that it brought to its end for the first time."""
        slot = self._slots[event.slot]
        match event:
            case ReplicaPlaced():
                self._replica_placed(slot, now)
            case ReplicaReady():
                self._replica_ready(slot)
            case ReplicaLost(failure=failure):
                self._replica_lost(slot, failure, now)
            case TaskFinished():
                return self._task_finished(slot, event, now)
            case TaskFailed():
                self._task_failed(slot, event, now)
        return None

    def tick(self, now: float) -> None:
        """Let time pass: end waits, and give up replicas past their deadline."""
        self._book.release_delayed(now)
        for slot in self._slots:
            if slot.state in (SlotState.STARTING, SlotState.BUSY) and now > slot.deadline:
                late = slot.awaited_event
                allowed = f"{slot.deadline - slot.since:.0f} s"
                failure = Failure(FailureKind.REPLICA, f"{late} within {allowed}")
                self._stops.append(StopReplica(slot.index))
                self._replica_lost(slot, failure, now)

    def stop(self, failure: Failure) -> None:
        """End the run with this reason; a reason given before stays."""
        self._stop = self._stop or failure

    # -- what the caller asks -------------------------------------------------------------------

    def actions(self, now: float) -> list[Action]:
        """What to do next; the caller must do all of it, as each action counts as done."""
        actions: list[Action] = [*self._stops]
        self._stops.clear()
        if self.finished:
            return actions
        actions += self._start_replicas(now)
        actions += self._move_idle_replicas(now)
        actions += self._run_tasks(now)
        return actions

    @property
    def finished(self) -> bool:
        """True where the run stopped, or every task added so far is done or set aside."""
        return self._stop is not None or self._book.num_unfinished == 0

    @property
    def num_ended(self) -> int:
        """Number of tasks done or set aside."""
        return self._book.num_done + self._book.num_set_aside

    def outcome(self, *, interrupted: bool = False) -> Outcome:
        """What the run has come to so far."""
        records = self._book.records
        over = (TaskState.DONE, TaskState.SET_ASIDE)
        return Outcome(
            done={key: r.receipt for key, r in records.items() if r.receipt is not None},
            set_aside=self._book.set_aside(),
            unfinished=tuple(key for key, r in records.items() if r.state not in over),
            stop=self._stop,
            interrupted=interrupted,
        )

    def progress(self) -> Progress:
        """Counts of now."""
        states = [slot.state for slot in self._slots]
        return Progress(
            num_tasks=len(self._book.records),
            num_done=self._book.num_done,
            num_set_aside=self._book.num_set_aside,
            num_in_flight=states.count(SlotState.BUSY),
            num_ready_replicas=states.count(SlotState.BUSY) + states.count(SlotState.IDLE),
            total_cost=self._book.total_cost,
            done_cost=self._book.done_cost,
        )

    def quiet_until(self) -> float:
        """The time up to which silence is in order; -inf where nothing is under way."""
        times = [self._book.latest_delay()]
        for slot in self._slots:
            if slot.state in (SlotState.STARTING, SlotState.BUSY):
                times.append(slot.deadline)
            elif slot.state is SlotState.EMPTY and slot.num_losses:
                times.append(slot.not_before)
        return max(times)

    def awaited(self) -> str:
        """What the run is waiting for, as a clause."""
        waits = []
        for slot in self._slots:
            if slot.state is SlotState.STARTING:
                what = "a replica" if slot.is_placed else "room for a replica"
                waits.append(f"{what} of {slot.pool} in slot {slot.index}")
            elif slot.record is not None:
                waits.append(f"task {slot.record.task.id[:12]} in slot {slot.index}")
        num_left = self._book.num_unfinished
        return ", ".join(waits) or f"a replica for any of {num_left} unfinished tasks"

    # -- events ---------------------------------------------------------------------------------

    def _replica_placed(self, slot: Slot, now: float) -> None:
        if slot.state is SlotState.STARTING:
            slot.placed(now, self.policy.start_deadline_s)

    def _replica_ready(self, slot: Slot) -> None:
        if slot.state is SlotState.STARTING:
            slot.state = SlotState.IDLE
            self._starts.succeeded(slot)

    def _replica_lost(self, slot: Slot, failure: Failure, now: float) -> None:
        if slot.state in (SlotState.EMPTY, SlotState.RETIRED):
            return
        was_starting, record = slot.state is SlotState.STARTING, slot.record
        # A preempted node says nothing about the replica: wait a moment, count nothing.
        if failure.kind is not FailureKind.PREEMPTED:
            slot.num_losses += 1
        slot.empty(now + self.policy.wait_s(max(1, slot.num_losses), self._rng))
        if failure.kind is FailureKind.MEMORY and self._may_do_with_fewer(slot, record):
            slot.state = SlotState.RETIRED
        elif was_starting:
            self._stop = self._stop or self._starts.failed(slot, failure)
        elif failure.kind is FailureKind.RUN:
            self.stop(failure)
        elif record is not None:
            self._count_failure(slot, record.task.id, failure, now)

    def _may_do_with_fewer(self, slot: Slot, record: TaskRecord | None) -> bool:
        """Whether the first shortage of memory of a task, or of a start, costs a slot alone.

        The second of one task is the task's: otherwise a single task that is too large would cost
        all slots but one.
        """
        if all(s is slot or s.state is SlotState.RETIRED for s in self._slots):
            return False
        return record is None or self._book.forgive_memory(record)

    def _task_finished(self, slot: Slot, event: TaskFinished, now: float) -> Task | None:
        record = self._book.records.get(event.receipt.task_id)
        if record is None:
            return None
        if slot.record is record and slot.attempt == event.receipt.attempt:
            rate = (now - slot.since) / record.task.cost
            self._slowest[slot.held_pool] = max(rate, self._slowest.get(slot.held_pool, 0.0))
            slot.num_losses = 0
            slot.idle()
        self._breaker.saw_success()
        return record.task if self._book.finish(record, event.receipt) else None

    def _task_failed(self, slot: Slot, event: TaskFailed, now: float) -> None:
        record = slot.record
        if record is None or record.task.id != event.task_id:
            return
        if event.failure.kind in REPLICA_IS_LOST:
            self._stops.append(StopReplica(slot.index))
            self._replica_lost(slot, event.failure, now)
            return
        slot.idle()
        self._count_failure(slot, event.task_id, event.failure, now)

    def _count_failure(self, slot: Slot, task_id: str, failure: Failure, now: float) -> None:
        record = self._book.records[task_id]
        stop = self._book.fail(record, failure, slot.replica, now)
        stop = stop or self._breaker.saw_failure(
            failure, self._book.num_set_aside, len(self._book.records)
        )
        if stop is not None:
            self.stop(stop)

    # -- actions --------------------------------------------------------------------------------

    def _start_replicas(self, now: float) -> Iterable[Action]:
        for slot in self._slots:
            if slot.state is SlotState.EMPTY and slot.not_before <= now:
                name = pool_for_empty_slot(self._book, self._pools, self._slots)
                if name is None:
                    return  # nor for any other slot
                yield self._start(slot, name, now)

    def _move_idle_replicas(self, now: float) -> Iterable[Action]:
        for slot in self._slots:
            if slot.state is SlotState.IDLE and not self._book.num_waiting(slot.held_pool):
                name = pool_for_idle_slot(self._book, self._pools, self._slots)
                if name is None:
                    return  # nor for any other slot
                yield StopReplica(slot.index)
                yield self._start(slot, name, now)

    def _run_tasks(self, now: float) -> Iterable[Action]:
        for slot in self._slots:
            if slot.state is not SlotState.IDLE:
                continue
            has_alternative = any(
                s is not slot
                and s.pool == slot.pool
                and s.state in (SlotState.IDLE, SlotState.BUSY)
                for s in self._slots
            )
            taken = self._book.take(slot.held_pool, slot.replica, has_alternative=has_alternative)
            if taken is None:
                continue
            record, attempt = taken
            slowest = self._slowest.get(slot.held_pool)
            allowed = self.policy.deadline_s(record.task.cost, slowest, record.num_strikes)
            slot.busy(record, attempt, now, allowed)
            yield RunTask(slot.index, record.task, attempt)

    def _start(self, slot: Slot, pool: str, now: float) -> StartReplica:
        self._num_replicas += 1
        allowed_s = self.policy.wait_for_nodes_s + self.policy.start_deadline_s
        slot.start(pool, self._num_replicas, now, allowed_s)
        return StartReplica(slot.index, self._pools[pool])
