"""What the driver needs from a place that runs replicas."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from cluster.tasks import Event, Pool, Task


class Backend(ABC):
    """Holds at most one replica per slot, with at most one call under way on each.

    A failure is an event, never an exception of these methods. After `stop(slot)`, or after
    `ReplicaLost` for the slot, no event of that replica follows.
    """

    @abstractmethod
    def start(self, slot: int, pool: Pool) -> None:
        """Begin to start a replica; `ReplicaReady` or `ReplicaLost` follows.

        Where a replica may have to wait for its share of a node, `ReplicaPlaced` comes first.
        """

    @abstractmethod
    def submit(self, slot: int, task: Task, attempt: str) -> None:
        """Send a task to a ready replica; `TaskFinished`, `TaskFailed` or `ReplicaLost` follows."""

    @abstractmethod
    def stop(self, slot: int) -> None:
        """End the slot's replica by force, at once; nothing happens where there is none."""

    @abstractmethod
    def poll(self, timeout_s: float) -> list[Event]:
        """What has happened since; waits up to `timeout_s` for the first event."""

    @abstractmethod
    def close(self) -> None:
        """End all replicas by force; may be called twice."""

    def __enter__(self) -> Self:
        """The backend itself; leaving the context closes it."""
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
