"""Replicas that do nothing: what is left is what the driver costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cluster.backends.base import Backend
from cluster.tasks import Event, Pool, Receipt, ReplicaReady, Task, TaskFinished

DIGEST = "0" * 64


class InstantBackend(Backend):
    """Every task is done as soon as somebody asks; nothing is computed or stored.

    `at_once`: events of one `poll` at most; 1 is the hardest on the driver, which then looks at all
    slots for each event.
    """

    def __init__(self, at_once: int = 1) -> None:
        self._at_once = at_once
        self._events: deque[Event] = deque()

    def start(self, slot: int, pool: Pool) -> None:
        """See `Backend.start`."""
        self._events.append(ReplicaReady(slot, {}))

    def submit(self, slot: int, task: Task, attempt: str) -> None:
        """See `Backend.submit`."""
        self._events.append(TaskFinished(slot, receipt_of(task, attempt)))

    def stop(self, slot: int) -> None:
        """See `Backend.stop`."""
        self._events = deque(event for event in self._events if event.slot != slot)

    def poll(self, timeout_s: float) -> list[Event]:
        """See `Backend.poll`; never waits."""
        return [self._events.popleft() for _ in range(min(self._at_once, len(self._events)))]

    def close(self) -> None:
        """See `Backend.close`."""


class InstantReplica:
    """Stands in for `cluster.replica.Replica` in an actor: receipts, and no parts."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def placed(self) -> None:
        pass

    def ready(self) -> Mapping[str, str]:
        return {}

    def run(self, task: Task, attempt: str) -> Receipt:
        return receipt_of(task, attempt)


class TinyWorker:
    """A part of one row for each task."""

    def load(self) -> Mapping[str, str]:
        return {}

    def run(self, payload: Any) -> Mapping[str, pa.Table]:
        return {"rows": pa.table({"value": [1.0]})}


def receipt_of(task: Task, attempt: str) -> Receipt:
    """A receipt as long as a real one."""
    return Receipt(task.id, attempt, 1, 1, 1e-3, dict.fromkeys(task.parts, DIGEST))
