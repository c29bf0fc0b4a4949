"""How patient a run is: retries, deadlines, backoff, breaker."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """Limits of a run; every default is meant for tasks of 20 to 60 s."""

    max_task_failures: int = 2
    "Failures of its own (TASK) after which a task is set aside."
    max_strikes: int = 3
    "Replicas lost under a task after which it is set aside."
    max_device_losses: int = 3
    """Different tasks in a row under which the device of one slot stopped working, after which the
    slot is given up, and with the last slot the run."""
    max_preemptions: int = 20
    "Nodes lost under a task after which it is set aside: it may be what ends them."
    max_storage_retries: int = 8
    "Retries of one task for storage trouble in a row, then the run stops."
    max_start_failures: int = 3
    """Starts in a row without a ready replica: of a pool that never had one, then the run stops;
    of one slot, then the slot is given up, and with the last slot the run."""

    first_deadline_s: float = 1800.0
    "Deadline of a task while nothing of its pool has been timed, seconds."
    min_deadline_s: float = 300.0
    "Least deadline of a task, seconds."
    deadline_factor: float = 10.0
    "Deadline over the slowest duration seen, per unit of cost."
    start_deadline_s: float = 1800.0
    "Time for a replica to be placed, and then again to be ready, seconds."
    wait_for_nodes_s: float = 0.0
    "Time to be placed on top of that, where a node may have to come first, seconds."
    stall_s: float = 120.0
    "Silence past every deadline after which the driver stops, seconds."
    no_progress_s: float = 4 * 3600.0
    "Time in which no task ends, whatever else happens, after which the driver stops, seconds."

    slow_factor: float = 1.5
    "A task is slow when it takes this many times what another replica would take for it."
    least_gain_s: float = 10.0
    "Time that running a slow task a second time must be expected to save, seconds."
    min_timed: int = 3
    "Tasks of a pool that must have been timed before one of them is called slow."
    room_s: float = 30.0
    "Time after which starts that the cluster has no room for any more are given up, seconds."

    backoff_s: float = 1.0
    "First wait before a retry, seconds; doubles each time."
    max_backoff_s: float = 60.0
    "Longest wait before a retry, seconds."

    breaker_first: int = 8
    "The run stops when this many first attempts all fail alike."
    max_set_aside_share: float = 0.05
    "Share of all tasks that may be set aside ..."
    min_set_aside: int = 10
    "... where at least this many are, before the run stops."

    seed: int = 0
    "Seeds the jitter of the waits."

    def deadline_s(
        self,
        cost: float,
        slowest_s_per_cost: float | None,
        num_strikes: int,
        *,
        is_timed: bool = True,
    ) -> float:
        """Seconds a task of `cost` may take; doubled for each replica it has lost.

        The doubling lets a task that is slow, not stuck, through before it is set aside. So does
        the patience with a replica that has not finished a task yet (not `is_timed`): its device
        may be slower than all that were timed so far.
        """
        base = self.min_deadline_s
        if slowest_s_per_cost is not None:
            base = max(base, self.deadline_factor * slowest_s_per_cost * cost)
        if slowest_s_per_cost is None or not is_timed:
            base = max(base, self.first_deadline_s)
        return base * 2.0**num_strikes

    def wait_s(self, num_failures: int, rng: random.Random) -> float:
        """Seconds to wait after the given number of failures in a row: 50 to 100 % of 2^n."""
        full = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(num_failures - 1, 30))
        return full * rng.uniform(0.5, 1.0)
