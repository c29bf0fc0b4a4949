"""The places where replicas run, and which pool gets the next one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from cluster.task_book import TaskBook, TaskRecord
from cluster.tasks import Failure


class SlotState(Enum):
    EMPTY = auto()
    STARTING = auto()
    IDLE = auto()
    BUSY = auto()
    RETIRED = auto()


@dataclass
class Slot:
    """One place for one replica, and what is under way there."""

    index: int
    state: SlotState = SlotState.EMPTY
    pool: str | None = None
    "Pool of the replica it holds, or held last."
    replica: int = 0
    "Number of the replica it holds, unique within the run."
    since: float = 0.0
    "When the start or the task under way began."
    deadline: float = 0.0
    allowed_s: float = 0.0
    "Time up to the deadline, from when it was set."
    not_before: float = 0.0
    "No start before this time."
    num_start_failures: int = 0
    "Starts in a row that ended without a ready replica."
    num_losses: int = 0
    "Replicas lost since a task last finished here."
    device_losses: list[tuple[TaskRecord, Failure]] = field(default_factory=list)
    "Tasks under which the device stopped working since a task last finished here."
    is_placed: bool = False
    "Whether the replica it holds was heard to have its share of a node."
    record: TaskRecord | None = None
    attempt: str = ""
    drains_by: float | None = None
    "When the node of the replica is taken away, where that is known."
    num_timed: int = 0
    "Tasks that the replica has finished, ..."
    timed_s: float = 0.0
    "... how long they took, ..."
    timed_cost: float = 0.0
    "... and what they cost."

    @property
    def awaited_event(self) -> str:
        """What has not happened where its deadline is past, as a clause."""
        if self.record is not None:
            return "task was not done"
        return "replica was not ready" if self.is_placed else "no node had room for the replica"

    @property
    def held_pool(self) -> str:
        """Name of the pool; for slots that have held a replica."""
        assert self.pool is not None
        return self.pool

    def start(self, pool: str, replica: int, now: float, allowed_s: float) -> None:
        """A replica is being started here."""
        self.state, self.pool, self.replica = SlotState.STARTING, pool, replica
        self.drains_by = None
        self.num_timed, self.timed_s, self.timed_cost = 0, 0.0, 0.0
        self.since, self.is_placed = now, False
        self._allow(now, allowed_s)

    def placed(self, now: float, allowed_s: float) -> None:
        """The replica being started has its share of a node; its time to load begins."""
        self.is_placed = True
        self._allow(now, allowed_s)

    def busy(self, record: TaskRecord, attempt: str, now: float, allowed_s: float) -> None:
        """The ready replica was sent a task."""
        assert self.state is SlotState.IDLE
        self.state, self.record, self.attempt = SlotState.BUSY, record, attempt
        self.since = now
        self._allow(now, allowed_s)

    def _allow(self, now: float, allowed_s: float) -> None:
        self.deadline, self.allowed_s = now + allowed_s, allowed_s

    def idle(self) -> None:
        """The replica is ready and has nothing to do."""
        self.state, self.record, self.attempt = SlotState.IDLE, None, ""

    def empty(self, not_before: float) -> None:
        """The replica is gone."""
        self.state, self.record, self.attempt = SlotState.EMPTY, None, ""
        self.not_before = not_before
        self.drains_by = None

    @property
    def is_draining(self) -> bool:
        """True where the replica is given no new task."""
        return self.drains_by is not None

    @property
    def is_waiting_for_room(self) -> bool:
        """True where a replica is being started that no node is known to have taken."""
        return self.state is SlotState.STARTING and not (self.is_placed or self.is_draining)

    @property
    def holds_replica(self) -> bool:
        """True where a replica is there or on its way."""
        return self.state in _HOLDING


_HOLDING = (SlotState.STARTING, SlotState.IDLE, SlotState.BUSY)
_FREE = (SlotState.STARTING, SlotState.IDLE)


def pool_for_empty_slot(book: TaskBook, pools: Iterable[str], slots: Sequence[Slot]) -> str | None:
    """The pool to start a replica of: more tasks waiting than replicas free, most cost per slot."""
    wanting = [p for p in pools if book.num_waiting(p) > _num_slots(slots, p, _FREE)]
    return _neediest(book, wanting, slots)


def pool_for_idle_slot(book: TaskBook, pools: Iterable[str], slots: Sequence[Slot]) -> str | None:
    """The pool that an idle slot should move to, if any.

    A move costs a load. So a pool with slots of its own must have more tasks waiting than slots.
    """
    wanting = [p for p in pools if book.num_waiting(p) > _num_slots(slots, p, _HOLDING)]
    return _neediest(book, wanting, slots)


def _num_slots(slots: Sequence[Slot], pool: str, states: tuple[SlotState, ...]) -> int:
    return sum(slot.pool == pool and slot.state in states for slot in slots)


def _neediest(book: TaskBook, pools: Sequence[str], slots: Sequence[Slot]) -> str | None:
    # Counted with the slot that is about to be given, so that costs 100 and 1 share two slots 2:0.
    def cost_per_slot(pool: str) -> float:
        return book.remaining_cost(pool) / (_num_slots(slots, pool, _HOLDING) + 1)

    return max(pools, key=cost_per_slot, default=None)
