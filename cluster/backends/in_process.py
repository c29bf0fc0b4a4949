"""Replicas in the calling process: the same results without Ray, and a debugger can step in."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace

from cluster.backends.base import Backend
from cluster.replica import Replica
from cluster.storage import StorageSpec
from cluster.tasks import (
    Event,
    Failure,
    FailureKind,
    Pool,
    Receipt,
    ReplicaLost,
    ReplicaReady,
    Task,
    TaskFailed,
    TaskFinished,
)


class InProcessBackend(Backend):
    """Runs one call per `poll`, in the order in which the calls were asked for."""

    def __init__(self, storage_spec: StorageSpec) -> None:
        self._storage_spec = storage_spec
        self._replicas: dict[int, Replica] = {}
        self._calls: deque[tuple[int, tuple[Task, str] | None]] = deque()

    def start(self, slot: int, pool: Pool) -> None:
        """See `Backend.start`; the worker is loaded in `poll`."""
        assert slot not in self._replicas, f"slot {slot} holds a replica"
        self._replicas[slot] = Replica(pool.factory, self._storage_spec)
        self._calls.append((slot, None))

    def submit(self, slot: int, task: Task, attempt: str) -> None:
        """See `Backend.submit`; the task runs in `poll`."""
        self._calls.append((slot, (task, attempt)))

    def stop(self, slot: int) -> None:
        """See `Backend.stop`."""
        self._replicas.pop(slot, None)
        self._calls = deque(call for call in self._calls if call[0] != slot)

    def poll(self, timeout_s: float) -> list[Event]:
        """See `Backend.poll`; takes as long as the call that it runs."""
        if not self._calls:
            time.sleep(timeout_s)
            return []
        slot, work = self._calls.popleft()
        try:
            return [self._call(slot, work)]
        except SystemExit as error:  # in a process of its own, this would be the end of it
            self._replicas.pop(slot, None)
            return [ReplicaLost(slot, Failure.from_exception(FailureKind.REPLICA, error))]

    def close(self) -> None:
        """See `Backend.close`."""
        self._replicas.clear()
        self._calls.clear()

    def _call(self, slot: int, work: tuple[Task, str] | None) -> Event:
        replica = self._replicas[slot]
        if work is None:
            facts = replica.ready()
            if isinstance(facts, Failure):
                self._replicas.pop(slot, None)
                return ReplicaLost(slot, facts)
            return ReplicaReady(slot, facts)
        task, attempt = work
        receipt = replica.run(task, attempt)
        if isinstance(receipt, Receipt):
            return TaskFinished(slot, receipt)
        if receipt.device_is_lost:
            return ReplicaLost(slot, _only_a_new_process_helps(receipt))
        return TaskFailed(slot, task.id, receipt)


def _only_a_new_process_helps(failure: Failure) -> Failure:
    """The end of the run: a replica that is started here would meet the same broken device."""
    message = (
        f"{failure.message}; only a new process can use the device again: run the same command "
        "again to continue"
    )
    return replace(failure, kind=FailureKind.RUN, message=message, user_must_act=True)
