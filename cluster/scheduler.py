"""Decides what runs where and what a failure means: a state machine without Ray or a clock.

Time is passed in, in seconds of any monotonic clock, and events are facts that a backend saw.
So thousands of schedules of crash, hang, preemption and lost reply run in a test within seconds.

One turn of the loop that drives it:

    events -> handle(event, now) ... -> add(follow-up tasks) -> tick(now) -> actions(now) -> backend

A slot holds one replica at a time. A replica is sent work only after it said that it is ready, and
one task at a time, so that a lost replica is charged to the task that ran on it and to no other.

Replicas come and go: there are as many slots as the cluster has ever had room for, and no more of
them are used than it has room for now. A replica on a node that is being taken away is given no new
task. At the end, a replica without work runs a slow task of another one a second time.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Sequence

from cluster.breaker import Breaker
from cluster.losses import LossBook
from cluster.outcome import Outcome, Progress
from cluster.pace import Pace
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
        """`num_slots` replicas at most at a time, over all pools; ValueError below 1.

        `RoomChanged` changes that number.
        """
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}")
        self.policy = policy or Policy()
        self._rng = random.Random(self.policy.seed)  # noqa: S311  (jitter, not secrets)
        self._pools = {pool.name: pool for pool in pools}
        if len(self._pools) != len(pools):
            raise ValueError(f"pool names must differ, got {[pool.name for pool in pools]}")
        self._book = TaskBook(self._pools, self.policy, self._rng, attempt_suffix)
        self._slots = [Slot(index) for index in range(num_slots)]
        self._room, self._room_since = num_slots, 0.0
        self._breaker = Breaker(self.policy)
        self._starts = StartBook(self.policy, self._slots)
        self._pace = Pace(self.policy)
        self._losses = LossBook()
        self._now = 0.0
        self._num_replicas = 0
        self._num_rows = 0
        self._stops: list[StopReplica] = []
        self._stop: Failure | None = None

    # -- what the caller tells ------------------------------------------------------------------

    def add(self, tasks: Iterable[Task]) -> None:
        """Queue tasks, at any time; ValueError for an id seen before or an unknown pool."""
        for task in tasks:
            self._book.add(task)

    def handle(self, event: Event, now: float) -> Task | None:
        """Take in one event; returns the task that it brought to its end for the first time."""
        self._now = now
        match event:
            case RoomChanged(num_replicas):
                # Where there is none, one replica waits for it, as long as a start may take.
                self._room, self._room_since = max(1, num_replicas), now
            case ReplicaPlaced(slot):
                self._replica_placed(self._slots[slot], now)
            case ReplicaReady(slot):
                self._replica_ready(self._slots[slot], now)
            case ReplicaLost(slot, failure):
                self._replica_lost(self._slots[slot], failure, now)
            case ReplicaDraining(slot, seconds_left):
                if self._slots[slot].holds_replica:
                    self._slots[slot].drains_by = now + seconds_left
            case TaskFinished(slot):
                return self._task_finished(self._slots[slot], event, now)
            case TaskFailed(slot):
                self._task_failed(self._slots[slot], event, now)
        return None

    def tick(self, now: float) -> None:
        """Let time pass: end waits, and give up replicas that are late or on their way out."""
        self._now = now
        self._book.release_delayed(now)
        self._give_up_starts_without_room(now)
        for slot in self._slots:
            if slot.is_draining and not self._may_go_on(slot, now):
                self._give_up(slot, now)
            elif slot.state in (SlotState.STARTING, SlotState.BUSY) and now > slot.deadline:
                late = slot.awaited_event
                failure = Failure(FailureKind.REPLICA, f"{late} within {slot.allowed_s:.0f} s")
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
    def stopped(self) -> bool:
        """True once the run has a reason to end early."""
        return self._stop is not None

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
            losses=self._losses.at_end(self._slots, self._now),
        )

    def progress(self) -> Progress:
        """Counts of now."""
        book, losses = self._book, self._losses.so_far
        states = [slot.state for slot in self._slots]
        return Progress(
            num_tasks=len(book.records),
            num_done=book.num_done,
            num_set_aside=book.num_set_aside,
            num_in_flight=states.count(SlotState.BUSY),
            num_ready_replicas=states.count(SlotState.BUSY) + states.count(SlotState.IDLE),
            total_cost=book.total_cost,
            done_cost=book.done_cost,
            left_cost=sum(book.remaining_cost(pool) for pool in self._pools),
            num_rows=self._num_rows,
            num_lost_replicas=losses.num_lost_replicas,
            num_failures=losses.num_failures,
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
            elif slot.record is not None and slot.record.state is TaskState.IN_FLIGHT:
                waits.append(f"task {slot.record.task.id[:12]} in slot {slot.index}")
        num_left = self._book.num_unfinished
        return ", ".join(waits) or f"a replica for any of {num_left} unfinished tasks"

    # -- events ---------------------------------------------------------------------------------

    def _replica_placed(self, slot: Slot, now: float) -> None:
        if slot.state is SlotState.STARTING:
            slot.placed(now, self.policy.start_deadline_s)

    def _replica_ready(self, slot: Slot, now: float) -> None:
        if slot.state is SlotState.STARTING:
            self._losses.start_ended(slot, now)
            slot.state = SlotState.IDLE
            self._starts.succeeded(slot)

    def _replica_lost(self, slot: Slot, failure: Failure, now: float) -> None:
        if slot.state in (SlotState.EMPTY, SlotState.RETIRED):
            return
        was_starting, record = slot.state is SlotState.STARTING, slot.record
        # A preempted node says nothing about the replica: wait a moment, count nothing.
        if failure.kind is not FailureKind.PREEMPTED:
            slot.num_losses += 1
        self._losses.failed()
        wait_s = self.policy.wait_s(max(1, slot.num_losses), self._rng)
        self._empty(slot, now, wait_s)
        self._losses.replica_lost(slot, now)
        if failure.kind is FailureKind.MEMORY and self._may_do_with_fewer(slot, record):
            slot.state = SlotState.RETIRED
        elif was_starting:
            self._stop = self._stop or self._starts.failed(slot, failure)
        elif failure.kind is FailureKind.RUN:
            self.stop(failure)
        elif record is not None:
            self._count_failure(slot, record.task.id, failure, now)
            if failure.device_is_lost:
                self._count_device_loss(slot, record, failure)

    def _count_device_loss(self, slot: Slot, record: TaskRecord, failure: Failure) -> None:
        """Give up a slot whose device stops working whatever task it is given.

        One failure does not tell whether the task or the device is at fault. A task that breaks
        every device breaks those of several slots, which finish other tasks in between: it is set
        aside as after any lost replicas. A device that breaks under one task after another is
        faulty: none of that counts against the tasks, which run elsewhere.
        """
        slot.device_losses.append((record, failure))
        tasks = {lost.task.id for lost, _ in slot.device_losses}
        if len(tasks) < self.policy.max_device_losses:
            return
        for lost, its_failure in slot.device_losses:
            self._book.forgive(lost, its_failure)
        slot.device_losses.clear()
        slot.state = SlotState.RETIRED
        if all(s.state is SlotState.RETIRED for s in self._slots):
            message = f"the last device failed under {len(tasks)} different tasks in a row"
            self.stop(Failure(FailureKind.RUN, f"{message}; {failure.message}", failure.details))

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
            self._pace.saw(slot, now)
            slot.num_losses = 0
            slot.device_losses.clear()
            self._end_attempt(slot, now, has_result=record.state is not TaskState.DONE)
            slot.idle()
        self._breaker.saw_success()
        if not self._book.finish(record, event.receipt):
            return None
        self._num_rows += event.receipt.num_rows
        return record.task

    def _task_failed(self, slot: Slot, event: TaskFailed, now: float) -> None:
        record = slot.record
        if record is None or record.task.id != event.task_id:
            return
        if event.failure.kind in REPLICA_IS_LOST:
            self._stops.append(StopReplica(slot.index))
            self._replica_lost(slot, event.failure, now)
            return
        self._losses.failed()
        self._end_attempt(slot, now)
        slot.idle()
        self._count_failure(slot, event.task_id, event.failure, now)

    def _count_failure(self, slot: Slot, task_id: str, failure: Failure, now: float) -> None:
        record = self._book.records[task_id]
        if record.state is TaskState.DONE:  # by another attempt: nothing hangs on this one
            return
        stop = self._book.fail(record, failure, slot.replica, slot.index, now)
        stop = stop or self._breaker.saw_failure(
            failure, self._book.num_set_aside, len(self._book.records)
        )
        if stop is not None:
            self.stop(stop)

    def _end_attempt(self, slot: Slot, now: float, *, has_result: bool = False) -> None:
        """The task under way in the slot, if any, is so no more."""
        if slot.record is not None:
            if not has_result:
                self._losses.attempt_ended(slot, now)
            self._book.end_attempt(slot.record)

    def _empty(self, slot: Slot, now: float, wait_s: float = 0.0) -> None:
        if slot.state is SlotState.STARTING:
            self._losses.start_ended(slot, now)
        self._end_attempt(slot, now)
        slot.empty(now + wait_s)

    # -- coming and going -----------------------------------------------------------------------

    @property
    def _num_free_places(self) -> int:
        """Replicas that may be started now; a slot given up for memory stays given up."""
        num_retired = sum(slot.state is SlotState.RETIRED for slot in self._slots)
        # A node that is being taken away is no part of the room, and so is what it holds.
        num_held = sum(slot.holds_replica and not slot.is_draining for slot in self._slots)
        return max(1, self._room - num_retired) - num_held

    def _may_go_on(self, slot: Slot, now: float) -> bool:
        """Whether a draining replica is of use until its node is gone."""
        if slot.record is None or slot.record.state is not TaskState.IN_FLIGHT:
            return False
        return not self._pace.cannot_make_it(slot, now)

    def _give_up(self, slot: Slot, now: float) -> None:
        """End a replica through no fault of its own; its task is for another one, at no cost."""
        record, is_draining = slot.record, slot.is_draining
        self._stops.append(StopReplica(slot.index))
        self._empty(slot, now)
        if is_draining:
            self._losses.replica_drained(slot, now)
        if record is not None:
            self._book.give_back(record)

    def _give_up_starts_without_room(self, now: float) -> None:
        """Where the room has shrunk, what still waits for it takes tasks from replicas that work.

        Not at once: the news that a replica was on the lost node may be on its way.
        """
        if self._num_free_places >= 0 or now < self._room_since + self.policy.room_s:
            return
        starting = [s for s in self._slots if s.is_waiting_for_room]
        starting.sort(key=lambda slot: slot.since, reverse=True)
        for slot in starting[: -self._num_free_places]:
            self._give_up(slot, now)

    # -- actions --------------------------------------------------------------------------------

    def _start_replicas(self, now: float) -> Iterable[Action]:
        num_free = self._num_free_places
        num_empty = sum(slot.state is SlotState.EMPTY for slot in self._slots)
        first = len(self._slots)
        self._slots += [Slot(first + n) for n in range(num_free - num_empty)]
        for slot in self._slots:
            if num_free > 0 and slot.state is SlotState.EMPTY and slot.not_before <= now:
                num_free -= 1
                name = pool_for_empty_slot(self._book, self._pools, self._slots)
                if name is None:
                    return  # nor for any other slot
                yield self._start(slot, name, now)

    def _move_idle_replicas(self, now: float) -> Iterable[Action]:
        for slot in self._slots:
            if slot.is_draining:
                continue
            if slot.state is SlotState.IDLE and not self._book.num_waiting(slot.held_pool):
                name = pool_for_idle_slot(self._book, self._pools, self._slots)
                if name is None:
                    return  # nor for any other slot
                yield StopReplica(slot.index)
                yield self._start(slot, name, now)

    def _run_tasks(self, now: float) -> Iterable[Action]:
        for slot in self._slots:
            if slot.state is not SlotState.IDLE or slot.is_draining:
                continue
            has_alternative = any(
                s is not slot
                and not s.is_draining
                and s.pool == slot.pool
                and s.state in (SlotState.IDLE, SlotState.BUSY)
                for s in self._slots
            )
            taken = self._book.take(
                slot.held_pool, slot.replica, slot.index, has_alternative=has_alternative
            )
            if taken is not None:
                yield self._run(slot, *taken, now)
            elif not self._book.num_waiting(slot.held_pool):
                record = self._pace.slow_task(slot, self._slots, now)
                if record is not None:
                    yield self._run(slot, record, self._book.begin_attempt(record), now)

    def _run(self, slot: Slot, record: TaskRecord, attempt: str, now: float) -> RunTask:
        is_second = record.num_in_flight > 1
        self._losses.attempt_began(
            is_second=is_second, is_again=record.num_attempts > 1 and not is_second
        )
        allowed = self.policy.deadline_s(
            record.task.cost,
            None if record.task.is_urgent else self._pace.slowest(slot.held_pool),
            record.num_strikes,
            is_timed=slot.num_timed > 0,
        )
        slot.busy(record, attempt, now, allowed)
        return RunTask(slot.index, record.task, attempt)

    def _start(self, slot: Slot, pool: str, now: float) -> StartReplica:
        self._num_replicas += 1
        self._losses.start_began(slot, now)
        allowed_s = self.policy.wait_for_nodes_s + self.policy.start_deadline_s
        slot.start(pool, self._num_replicas, now, allowed_s)
        return StartReplica(slot.index, self._pools[pool])
