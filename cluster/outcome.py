"""Where a run stands and how it ended, in numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.tasks import Failure, Receipt, Task


@dataclass(frozen=True)
class SetAside:
    """A task that was given up, with the failure of each attempt in order."""

    task: Task
    failures: tuple[Failure, ...]

    @property
    def reason(self) -> str:
        """One line: how often it was tried and what the last attempt said."""
        return f"{len(self.failures)} attempts failed, the last with {self.failures[-1].message}"


@dataclass(frozen=True)
class Progress:
    """Counts at one moment; costs are in the tasks' own relative unit."""

    num_tasks: int
    num_done: int
    num_set_aside: int
    num_in_flight: int
    num_ready_replicas: int
    total_cost: float
    done_cost: float


@dataclass(frozen=True)
class Outcome:
    """What a run came to; everything in `done` is in storage whatever the rest says."""

    done: Mapping[str, Receipt]
    "Task id to receipt."
    set_aside: tuple[SetAside, ...]
    unfinished: tuple[str, ...]
    "Ids of tasks neither done nor set aside; empty unless stopped or interrupted."
    stop: Failure | None = None
    "Why the run stopped early."
    interrupted: bool = False
    "True where the caller asked to stop."

    @property
    def complete(self) -> bool:
        """True where every task is done."""
        return not (self.set_aside or self.unfinished or self.stop or self.interrupted)
