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
        return f"{len(self.failures)} attempts failed; the last error: {self.failures[-1].message}"


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
    left_cost: float = 0.0
    "Of tasks neither done nor set aside."
    num_rows: int = 0
    "Rows of the tasks done."
    num_lost_replicas: int = 0
    num_failures: int = 0
    "Attempts that failed, lost replicas included."


@dataclass(frozen=True)
class Losses:
    """What failures and departures have cost, by the driver's clock."""

    num_attempts: int = 0
    num_done_again: int = 0
    "Attempts of tasks that had lost one."
    num_second_attempts: int = 0
    "Attempts of slow tasks beside the first, on replicas that had nothing else to do."
    num_failures: int = 0
    num_lost_replicas: int = 0
    num_drained: int = 0
    "Replicas given up since their node was being taken away."
    lost_s: float = 0.0
    "Replica time of attempts that brought no result, and of waits for the next replica."
    second_attempts_s: float = 0.0
    "Replica time of attempts whose task was finished by another one."

    def __str__(self) -> str:
        """One clause; empty where nothing was lost."""
        said = []
        if self.num_done_again or self.lost_s >= 0.5:
            tasks = "1 task" if self.num_done_again == 1 else f"{self.num_done_again} tasks"
            said.append(f"{tasks} done again, {self.lost_s:.0f} s of replica time lost")
        if self.num_lost_replicas or self.num_drained:
            said.append(f"{self.num_lost_replicas} replicas lost, {self.num_drained} drained")
        if self.num_second_attempts:
            said.append(f"{self.num_second_attempts} slow tasks run a second time elsewhere")
        return "; ".join(said)

    def as_record(self) -> dict[str, float]:
        """Plain numbers for a run's record."""
        return {
            "attempts": self.num_attempts,
            "done_again": self.num_done_again,
            "second_attempts": self.num_second_attempts,
            "replicas_lost": self.num_lost_replicas,
            "replicas_drained": self.num_drained,
            "lost_s": round(self.lost_s, 1),
            "second_attempts_s": round(self.second_attempts_s, 1),
        }


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
    losses: Losses = Losses()

    @property
    def complete(self) -> bool:
        """True where every task is done."""
        return not (self.set_aside or self.unfinished or self.stop or self.interrupted)
