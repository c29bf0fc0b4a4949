"""How fast tasks go, and which of those under way would be done sooner elsewhere."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable

from cluster.policy import Policy
from cluster.slots import Slot, SlotState
from cluster.task_book import TaskRecord, TaskState

_REMEMBERED = 64


class Pace:
    """Seconds per unit of cost: of each pool's tasks, and of the replica in each slot."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._latest: dict[str, deque[float]] = {}
        self._slowest: dict[str, float] = {}

    def saw(self, slot: Slot, now: float) -> None:
        """The slot's task is done."""
        assert slot.record is not None
        if slot.record.task.is_urgent:  # of another kind than the tasks that are timed
            return
        took_s, cost, pool = now - slot.since, slot.record.task.cost, slot.held_pool
        slot.num_timed += 1
        slot.timed_s += took_s
        slot.timed_cost += cost
        rate = took_s / cost
        self._latest.setdefault(pool, deque(maxlen=_REMEMBERED)).append(rate)
        self._slowest[pool] = max(rate, self._slowest.get(pool, 0.0))

    def slowest(self, pool: str) -> float | None:
        """The largest seen; None where nothing of the pool was timed."""
        return self._slowest.get(pool)

    def expected_s(self, slot: Slot, cost: float) -> float | None:
        """Time for a task on the slot's replica: by its own rate, or else by its pool's median.

        None where too little was timed.
        """
        if slot.num_timed:
            return cost * slot.timed_s / slot.timed_cost
        latest = self._latest.get(slot.held_pool, ())
        if len(latest) < self._policy.min_timed:
            return None
        return cost * statistics.median(latest)

    def slow_task(self, idle: Slot, slots: Iterable[Slot], now: float) -> TaskRecord | None:
        """The task under way that the idle replica would most likely be done with first.

        A task that has taken `slow_factor` times as long as its replica should need is expected to
        take as long again. One second attempt at a time, and none for a task that had failed: it
        may be what ends replicas.
        """
        found, most_left_s = None, 0.0
        if len(self._latest.get(idle.held_pool, ())) < self._policy.min_timed:
            return None
        for slot in slots:
            record = slot.record
            if slot.state is not SlotState.BUSY or slot.pool != idle.pool or record is None:
                continue
            if record.num_in_flight != 1 or record.state is not TaskState.IN_FLIGHT:
                continue
            if record.num_strikes or record.num_task_failures or record.task.is_urgent:
                continue
            left_s = self._left_s(slot, idle, record.task.cost, now)
            if left_s > most_left_s:
                found, most_left_s = record, left_s
        return found

    def cannot_make_it(self, slot: Slot, now: float) -> bool:
        """Whether the task on a draining replica will not be done before its node is gone."""
        assert slot.record is not None
        assert slot.drains_by is not None
        task = slot.record.task
        expected_s = None if task.is_urgent else self.expected_s(slot, task.cost)
        # Once it is late, nobody knows: it may still be done in time.
        is_late = expected_s is None or now > slot.since + expected_s
        return not is_late and slot.since + (expected_s or 0.0) > slot.drains_by

    def _left_s(self, slot: Slot, idle: Slot, cost: float, now: float) -> float:
        """Time that the task still needs where it is; 0 where it is better left alone."""
        factor = self._policy.slow_factor
        own_s, anew_s = self.expected_s(slot, cost), self.expected_s(idle, cost)
        if own_s is None or anew_s is None:
            return 0.0
        elapsed_s = now - slot.since
        whole_s = own_s if elapsed_s <= factor * own_s else 2 * elapsed_s
        if slot.drains_by is not None and slot.since + whole_s > slot.drains_by:
            return math.inf
        left_s = whole_s - elapsed_s
        is_worth_it = left_s - anew_s >= self._policy.least_gain_s
        return left_s if whole_s > factor * anew_s and is_worth_it else 0.0
