"""Wall time of a sweep on several replicas: starting them, then two phases of tasks."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

RAY_START_S = 10.0
"""To start Ray or to join a cluster. An assumption, as the two below."""
REPLICA_START_S = 15.0
"""Until a replica's process has imported torch and transformers and has taken its device."""
LOAD_BYTES_PER_S = 1e9
"""Of weights from a local disk to the device. A download, or a shared disk, takes longer."""


def startup_seconds(weights_bytes: Sequence[int], num_replicas: int, *, on_ray: bool) -> float:
    """Seconds in which nothing is computed; a floor that no number of replicas gets below.

    Args:
        weights_bytes: of each model that is left to run. With fewer replicas than models, a replica
            loads one after another.
        on_ray: whether replicas are processes of their own.
    """
    if not weights_bytes:
        return 0.0
    num_rounds = -(-len(weights_bytes) // num_replicas)
    largest = sorted(weights_bytes, reverse=True)[:num_rounds]
    processes = RAY_START_S + num_rounds * REPLICA_START_S if on_ray else 0.0
    return processes + sum(largest) / LOAD_BYTES_PER_S


def busy_seconds(phases: Sequence[Sequence[float]], num_replicas: int) -> float:
    """Seconds from the first task to the end of the last.

    Each task goes to the replica that is free first, the longest first; a phase begins when the one
    before has ended. A run overlaps the phases of different groups a little.

    Args:
        phases: seconds of each task of each phase.
    """
    total = 0.0
    for tasks in phases:
        free_at = [0.0] * min(num_replicas, max(1, len(tasks)))
        for seconds in sorted(tasks, reverse=True):
            heapq.heapreplace(free_at, free_at[0] + seconds)
        total += max(free_at)
    return total
