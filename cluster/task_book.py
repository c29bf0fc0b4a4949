"""What has happened to each task, and what that makes of it: again, later, or set aside."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from cluster.outcome import SetAside
from cluster.policy import Policy
from cluster.tasks import Failure, FailureKind, Receipt, Task

Rank = tuple[bool, float, int]


class TaskState(Enum):
    WAITING = auto()
    DELAYED = auto()
    IN_FLIGHT = auto()
    DONE = auto()
    SET_ASIDE = auto()


@dataclass(slots=True)
class TaskRecord:
    """One task's history."""

    task: Task
    rank: Rank
    "Sorts urgent tasks first, then the longest, ties by insertion."
    state: TaskState = TaskState.WAITING
    not_before: float = 0.0
    num_attempts: int = 0
    num_in_flight: int = 0
    "Slots on which an attempt is under way: two while a slow task runs a second time."
    num_task_failures: int = 0
    num_strikes: int = 0
    num_preemptions: int = 0
    is_short_of_memory: bool = False
    "It has run out of memory once."
    num_storage_failures: int = 0
    failed_on: int | None = None
    "The replica whose attempt ended in a failure of the task's own."
    device_failed_in: int | None = None
    "The slot whose device stopped working under the last attempt."
    failures: list[Failure] = field(default_factory=list)
    receipt: Receipt | None = None


class TaskBook:
    """All tasks of a run by id, and the queue of each pool."""

    def __init__(
        self,
        pool_names: Iterable[str],
        policy: Policy,
        rng: random.Random,
        suffix: Callable[[], str],
    ) -> None:
        self._policy = policy
        self._rng = rng
        self._suffix = suffix
        self._queues: dict[str, list[tuple[Rank, TaskRecord]]] = {name: [] for name in pool_names}
        "A heap by rank for each pool; a task that was done while it waited is still in it."
        self._num_queued = dict.fromkeys(self._queues, 0)
        self._remaining_cost: dict[str, float] = dict.fromkeys(self._queues, 0.0)
        self._delayed: dict[str, TaskRecord] = {}
        self.records: dict[str, TaskRecord] = {}
        self.total_cost = self.done_cost = 0.0
        self.num_done = 0
        self.num_set_aside = 0

    def add(self, task: Task) -> None:
        """Queue a task; ValueError where its id was added before or its pool is unknown."""
        if task.pool not in self._queues:
            known = ", ".join(self._queues)
            raise ValueError(f"task {task.id} names pool {task.pool!r}; pools are {known}")
        if task.id in self.records:
            raise ValueError(f"task {task.id} was added before")
        record = TaskRecord(task, rank=(not task.is_urgent, -task.cost, len(self.records)))
        self.records[task.id] = record
        self._remaining_cost[task.pool] += task.cost
        self.total_cost += task.cost
        self._enqueue(record)

    @property
    def num_unfinished(self) -> int:
        """Number of tasks neither done nor set aside."""
        return len(self.records) - self.num_done - self.num_set_aside

    def num_waiting(self, pool: str) -> int:
        """Number of the pool's tasks that are not in flight, delayed ones included."""
        return self._num_queued[pool] + sum(r.task.pool == pool for r in self._delayed.values())

    def remaining_cost(self, pool: str) -> float:
        """Cost of the pool's tasks that are neither done nor set aside."""
        return self._remaining_cost[pool]

    def latest_delay(self) -> float:
        """The time at which the last delayed task may be tried again; -inf where there is none."""
        return max((r.not_before for r in self._delayed.values()), default=float("-inf"))

    def release_delayed(self, now: float) -> None:
        """Put the tasks whose wait is over back into their queues."""
        for record in [r for r in self._delayed.values() if r.not_before <= now]:
            del self._delayed[record.task.id]
            self._enqueue(record)

    def take(
        self, pool: str, replica: int, slot: int, *, has_alternative: bool
    ) -> tuple[TaskRecord, str] | None:
        """The pool's longest task that `replica` in `slot` should run, and the id of this attempt.

        A task that failed on this replica is left for another one where there is one. So is a task
        under which the device of this slot stopped working; without another replica it is taken
        last, so that other tasks show first whether the task or the device is at fault.
        """
        queue, left = self._queues[pool], []
        taken = None
        while queue and taken is None:
            entry = heapq.heappop(queue)
            if entry[1].state is not TaskState.WAITING:
                continue  # done meanwhile by a late reply
            failed_here = has_alternative and entry[1].failed_on == replica
            if failed_here or entry[1].device_failed_in == slot:
                left.append(entry)
            else:
                taken = entry[1]
        if taken is None and left and not has_alternative:
            taken = left.pop(0)[1]
        for entry in left:
            heapq.heappush(queue, entry)
        if taken is None:
            return None
        self._num_queued[pool] -= 1
        taken.state = TaskState.IN_FLIGHT
        return taken, self.begin_attempt(taken)

    def begin_attempt(self, record: TaskRecord) -> str:
        """Count one more attempt of a task in flight; returns its id."""
        assert record.state is TaskState.IN_FLIGHT
        record.num_attempts += 1
        record.num_in_flight += 1
        return f"{record.task.id[:12]}-{record.num_attempts}-{self._suffix()}"

    def end_attempt(self, record: TaskRecord) -> None:
        """An attempt is over, however it ended; what it came to is told before or after this."""
        record.num_in_flight -= 1
        assert record.num_in_flight >= 0

    def give_back(self, record: TaskRecord) -> None:
        """Queue a task again whose attempt was given up through no fault of its own."""
        if record.state is TaskState.IN_FLIGHT and not record.num_in_flight:
            self._enqueue(record)

    def finish(self, record: TaskRecord, receipt: Receipt) -> bool:
        """Mark a task done, whatever it was before; False where it was done already."""
        if record.state is TaskState.DONE:
            return False
        if record.state is TaskState.SET_ASIDE:
            self.num_set_aside -= 1
        else:
            self._remaining_cost[record.task.pool] -= record.task.cost
        if record.state is TaskState.WAITING:
            self._num_queued[record.task.pool] -= 1
        self._delayed.pop(record.task.id, None)
        record.state, record.receipt = TaskState.DONE, receipt
        self.num_done += 1
        self.done_cost += record.task.cost
        return True

    def fail(
        self, record: TaskRecord, failure: Failure, replica: int, slot: int, now: float
    ) -> Failure | None:
        """Account for a failed attempt that is over; returns why the run must stop, if it must.

        Each attempt counts for itself. Whether the task is tried again or set aside is decided
        when the last of its attempts under way is over: another one may still bring the result.
        """
        if record.state is not TaskState.IN_FLIGHT:
            return None
        stop = None
        not_before = now
        match failure.kind:
            case FailureKind.RUN:
                stop = failure
            case FailureKind.STORAGE:
                record.num_storage_failures += 1
                not_before += self._policy.wait_s(record.num_storage_failures, self._rng)
                if record.num_storage_failures > self._policy.max_storage_retries:
                    tries = f"storage failed {record.num_storage_failures} times in a row"
                    message = f"{tries}: {failure.message}"
                    stop = Failure(failure.kind, message, failure.details)
            case FailureKind.PREEMPTED:
                record.num_preemptions += 1
                record.failures.append(failure)
            case FailureKind.TASK:
                record.num_storage_failures = 0
                record.num_task_failures += 1
                record.failed_on, record.device_failed_in = replica, None
                record.failures.append(failure)
            case FailureKind.REPLICA | FailureKind.MEMORY:
                record.num_strikes += 1
                if failure.device_is_lost:
                    record.failed_on, record.device_failed_in = None, slot
                record.failures.append(failure)
        if not record.num_in_flight:
            self._again_or_set_aside(record, now if stop else not_before, now)
        return stop

    def forgive(self, record: TaskRecord, failure: Failure) -> None:
        """Take back a lost replica that turned out not to be the task's fault.

        Too late for a task that is done or set aside.
        """
        if record.state not in (TaskState.DONE, TaskState.SET_ASIDE):
            record.num_strikes -= 1
            record.failures.remove(failure)

    def forgive_memory(self, record: TaskRecord) -> bool:
        """Requeue a task that ran out of memory at no cost; False the second time."""
        if record.is_short_of_memory:
            return False
        record.is_short_of_memory = True
        self.give_back(record)
        return True

    def set_aside(self) -> tuple[SetAside, ...]:
        """The tasks given up, in the order in which they were added."""
        given_up = [r for r in self.records.values() if r.state is TaskState.SET_ASIDE]
        return tuple(SetAside(r.task, tuple(r.failures)) for r in given_up)

    def _again_or_set_aside(self, record: TaskRecord, not_before: float, now: float) -> None:
        policy = self._policy
        if (
            record.num_task_failures >= policy.max_task_failures
            or record.num_strikes >= policy.max_strikes
            or record.num_preemptions >= policy.max_preemptions
        ):
            record.state = TaskState.SET_ASIDE
            self.num_set_aside += 1
            self._remaining_cost[record.task.pool] -= record.task.cost
        elif not_before > now:
            record.state, record.not_before = TaskState.DELAYED, not_before
            self._delayed[record.task.id] = record
        else:
            self._enqueue(record)

    def _enqueue(self, record: TaskRecord) -> None:
        record.state = TaskState.WAITING
        self._num_queued[record.task.pool] += 1
        heapq.heappush(self._queues[record.task.pool], (record.rank, record))
