"""What a run has lost: attempts without a result, and time until a replica was there again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cluster.outcome import Losses
from cluster.slots import Slot, SlotState
from cluster.task_book import TaskState


class LossBook:
    """Adds up as events come; every entry is made before the slot forgets what ran on it."""

    def __init__(self) -> None:
        self._so_far = Losses()
        self._lost_at: dict[int, float] = {}
        "Slot to the time at which its replica was gone."

    @property
    def so_far(self) -> Losses:
        """All attempts that are over."""
        return self._so_far

    def attempt_began(self, *, is_second: bool, is_again: bool) -> None:
        """A task is sent to a replica: beside another attempt, after one, or neither."""
        so_far = self._so_far
        self._so_far = replace(
            so_far,
            num_attempts=so_far.num_attempts + 1,
            num_second_attempts=so_far.num_second_attempts + is_second,
            num_done_again=so_far.num_done_again + is_again,
        )

    def attempt_ended(self, slot: Slot, now: float) -> None:
        """The attempt in the slot has brought nothing."""
        self._so_far = _with_attempt(self._so_far, slot, now)

    def failed(self) -> None:
        """An attempt failed, or a replica did."""
        self._so_far = replace(self._so_far, num_failures=self._so_far.num_failures + 1)

    def replica_lost(self, slot: Slot, now: float) -> None:
        """The slot's replica is gone."""
        self._lost_at[slot.index] = now
        self._so_far = replace(self._so_far, num_lost_replicas=self._so_far.num_lost_replicas + 1)

    def replica_drained(self, slot: Slot, now: float) -> None:
        """The slot's replica was given up with its node."""
        self._lost_at[slot.index] = now
        self._so_far = replace(self._so_far, num_drained=self._so_far.num_drained + 1)

    def start_began(self, slot: Slot, now: float) -> None:
        """The next replica is started; until its wait was over, the slot was kept from it."""
        if slot.index in self._lost_at:
            self._add(max(0.0, min(now, slot.not_before) - self._lost_at[slot.index]))

    def start_ended(self, slot: Slot, now: float) -> None:
        """It is ready, or gone as well: what it took to load was loaded before."""
        if self._lost_at.pop(slot.index, None) is not None:
            self._add(now - slot.since)

    def at_end(self, slots: Iterable[Slot], now: float) -> Losses:
        """With the attempts that are under way now, as if they were dropped."""
        losses = self._so_far
        for slot in slots:
            if slot.state is SlotState.BUSY:
                losses = _with_attempt(losses, slot, now)
        return losses

    def _add(self, seconds: float) -> None:
        self._so_far = replace(self._so_far, lost_s=self._so_far.lost_s + seconds)


def _with_attempt(losses: Losses, slot: Slot, now: float) -> Losses:
    assert slot.record is not None
    took_s = now - slot.since
    if slot.record.state is TaskState.DONE:
        return replace(losses, second_attempts_s=losses.second_attempts_s + took_s)
    return replace(losses, lost_s=losses.lost_s + took_s)
