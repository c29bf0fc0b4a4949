"""What failed starts of replicas mean: again, a slot that is given up, or the end of the run."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.policy import Policy
from cluster.slots import Slot, SlotState
from cluster.tasks import Failure, FailureKind


class StartBook:
    """Which pools have shown that they can load, and how many starts failed in a row."""

    def __init__(self, policy: Policy, slots: Sequence[Slot]) -> None:
        self._policy = policy
        self._slots = slots
        self._proven: set[str] = set()
        self._num_failures: dict[str, int] = {}

    def succeeded(self, slot: Slot) -> None:
        """The slot's replica is ready."""
        slot.num_start_failures = 0
        self._num_failures.pop(slot.held_pool, None)
        self._proven.add(slot.held_pool)

    def failed(self, slot: Slot, failure: Failure) -> Failure | None:
        """Account for a start that failed; returns why the run must stop, if it must."""
        pool = slot.held_pool
        proven = pool in self._proven
        # Once a replica of the pool was ready, a failed load is this machine's or this hour's.
        if failure.user_must_act or (failure.kind is FailureKind.RUN and not proven):
            return failure
        if failure.kind is FailureKind.PREEMPTED:
            return None
        slot.num_start_failures += 1
        self._num_failures[pool] = self._num_failures.get(pool, 0) + 1
        enough = self._policy.max_start_failures
        pending = any(s.pool == pool and s.state is SlotState.STARTING for s in self._slots)
        if not proven and self._num_failures[pool] >= enough and not pending:
            return self._stop(pool, failure)
        if slot.num_start_failures >= enough:
            slot.state = SlotState.RETIRED
            if all(s.state is SlotState.RETIRED for s in self._slots):
                return self._stop(pool, failure)
        return None

    def _stop(self, pool: str, failure: Failure) -> Failure:
        said = f"no replica of {pool} became ready: {self._num_failures[pool]} starts failed"
        message = f"{said} in a row; the last error: {failure.message}"
        return Failure(failure.kind, message, failure.details)
