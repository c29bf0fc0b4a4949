"""Random schedules of crash, hang, preemption, late reply, and nodes that come and go.

On a fake clock.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
from dataclasses import dataclass

import pytest

from cluster.outcome import Outcome
from cluster.policy import Policy
from cluster.scheduler import Scheduler
from cluster.tasks import (
    Action,
    Event,
    Failure,
    FailureKind,
    Pool,
    Receipt,
    ReplicaDraining,
    ReplicaLost,
    ReplicaReady,
    RoomChanged,
    RunTask,
    StartReplica,
    StopReplica,
    Task,
    TaskFailed,
    TaskFinished,
    WorkerFactory,
)

NUM_SEEDS = int(os.environ.get("STEERSWEEP_TEST_SEEDS", "2000"))
NUM_BATCHES = 10
POLICY = Policy(
    backoff_s=0.5,
    max_backoff_s=4.0,
    first_deadline_s=30.0,
    min_deadline_s=30.0,
    start_deadline_s=15.0,
    least_gain_s=0.5,
)
STEP_S = 2.0
FATES = ("raise", "crash", "device", "hang", "preempt", "memory", "store", "late", "dup")


@dataclass
class Place:
    """What really is in a slot; the scheduler knows only what it is told."""

    pool: str
    incarnation: int
    ready: bool = False
    attempt: str | None = None
    task_id: str = ""
    drains: bool = False


class World:
    """A cluster whose replicas misbehave at random, and which checks every order it is given."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.trouble = rng.choice([0.0, 0.05, 0.2, 0.4])
        # Distinct errors for each attempt: the breaker has tests of its own.
        self.numbers = itertools.count()
        self.pools = [Pool(name, WorkerFactory("no:where")) for name in "abc"[: rng.randint(1, 3)]]
        num_slots = rng.randint(1, 4)
        self.scheduler = Scheduler(
            self.pools, num_slots, POLICY, attempt_suffix=lambda: f"{next(self.numbers)}"
        )
        self.tasks: dict[str, Task] = {}
        self.poison = {
            f"t{i}": rng.choice(["raise", "crash", "device"]) for i in range(200) if self.odds(10)
        }
        self.places: dict[int, Place] = {}
        self.agenda: list[tuple[float, int, int, int, Event]] = []
        self.now = 0.0
        self.attempts: set[str] = set()
        self.delivered: set[str] = set()
        self.room = num_slots
        self.is_elastic = rng.random() < 0.5
        self.num_second = self.num_drained = 0
        self.ended: list[str] = []
        self.add(rng.randint(1, 25))

    def odds(self, percent: float) -> bool:
        return self.trouble > 0 and self.rng.random() < percent / 100

    def add(self, num_tasks: int) -> None:
        new = [
            Task(f"t{len(self.tasks) + i}", self.rng.choice(self.pools).name,
                 self.rng.uniform(0.5, 4.0), {"rows": "k"}, None)
            for i in range(num_tasks)
        ]  # fmt: skip
        self.tasks |= {task.id: task for task in new}
        self.scheduler.add(new)

    def later(self, slot: int, event: Event, after_s: float, incarnation: int = -1) -> None:
        """Deliver the event then, if the slot still holds that incarnation; -1: in any case."""
        when = self.now + after_s
        heapq.heappush(self.agenda, (when, next(self.numbers), slot, incarnation, event))

    def run(self) -> Outcome:
        for _ in range(20_000):
            if self.scheduler.finished:
                return self.scheduler.outcome()
            self.come_and_go()
            self.scheduler.tick(self.now)
            self.num_held = self.count_held()
            for action in self.scheduler.actions(self.now):
                self.obey(action)
            next_event = self.agenda[0][0] if self.agenda else self.now + STEP_S
            self.now = max(self.now, min(next_event, self.now + STEP_S)) + 1e-6
            while self.agenda and self.agenda[0][0] <= self.now:
                self.deliver(*heapq.heappop(self.agenda)[2:])
        raise AssertionError("the schedule does not end")

    def count_held(self) -> int:
        return sum(not place.drains for place in self.places.values())

    def obey(self, action: Action) -> None:
        match action:
            case StartReplica(slot, pool):
                assert slot not in self.places, "two replicas in a slot"
                # A replica may take another one's place where there are too many.
                most = max(self.room, self.num_held)
                assert self.count_held() < most, "more replicas than there is room for"
                self.start(slot, pool.name)
            case StopReplica(slot):
                self.places.pop(slot, None)
            case RunTask(slot, task, attempt):
                place = self.places.get(slot)
                assert place is not None, "work for a slot without a replica"
                assert place.ready, "work for a replica that is not ready"
                assert place.attempt is None, "two tasks in flight on a slot"
                assert place.pool == task.pool, "work for a replica of another pool"
                assert not place.drains, "new work for a replica on its way out"
                others = [p for p in self.places.values() if p.attempt and p.task_id == task.id]
                assert len(others) <= 1, "a task on three replicas"
                self.num_second += len(others)
                assert task.id not in self.delivered, "work that is known to be done"
                assert attempt not in self.attempts, "an attempt id twice"
                self.attempts.add(attempt)
                self.run_task(place, slot, task, attempt)

    def start(self, slot: int, pool: str) -> None:
        place = self.places[slot] = Place(pool, next(self.numbers))
        fate = self.rng.random()
        after_s = self.rng.uniform(0.1, 3.0)
        if fate > self.trouble / 2:
            self.later(slot, ReplicaReady(slot, {}), after_s, place.incarnation)
        elif fate > self.trouble / 4:
            kind = self.rng.choice([FailureKind.PREEMPTED, FailureKind.REPLICA])
            self.later(slot, ReplicaLost(slot, Failure(kind, "start")), after_s, place.incarnation)
        # else it hangs

    def run_task(self, place: Place, slot: int, task: Task, attempt: str) -> None:
        place.attempt, place.task_id = attempt, task.id
        # Devices differ, and now and then one is slow.
        took_s = task.cost * self.rng.uniform(0.5, 1.2) * (1 + place.incarnation % 2)
        took_s *= 3.0 if self.rng.random() < 0.1 else 1.0
        done = TaskFinished(slot, Receipt(task.id, attempt, 1, 1, took_s, {"rows": "d"}))
        lost = Failure(FailureKind.REPLICA, "gone")
        number = next(self.numbers)
        raised = TaskFailed(slot, task.id, Failure(FailureKind.TASK, f"E{number}: odd"))
        good = self.rng.random() >= self.trouble
        fate = self.poison.get(task.id) or (
            "done" if good
            else self.rng.choice(FATES)
        )  # fmt: skip
        store = TaskFailed(slot, task.id, Failure(FailureKind.STORAGE, "503"))
        events: dict[str, list[Event]] = {
            "done": [done],
            "raise": [raised],
            "crash": [ReplicaLost(slot, lost)],
            "device": [ReplicaLost(slot, Failure(lost.kind, "CUDA", device_is_lost=True))],
            "hang": [],
            "preempt": [ReplicaLost(slot, Failure(FailureKind.PREEMPTED, "node"))],
            "memory": [ReplicaLost(slot, Failure(FailureKind.MEMORY, "monitor"))],
            "store": [store],
            "late": [],
            "dup": [done],
        }
        for event in events[fate]:
            self.later(slot, event, took_s, place.incarnation)
        if fate in ("late", "dup"):  # the reply of a replica that was given up
            self.later(slot, done, self.rng.uniform(5.0, 90.0))

    def come_and_go(self) -> None:
        """A node that joins, leaves or is being taken away, in one step of many."""
        if not self.is_elastic or self.rng.random() > 0.1:
            return
        fate = self.rng.random()
        if fate < 0.5:
            self.room = max(1, min(6, self.room + self.rng.choice([-1, 1])))
            self.scheduler.handle(RoomChanged(self.room), self.now)
        elif self.places:
            slot = self.rng.choice(sorted(self.places))
            place = self.places[slot]
            if not place.drains:
                place.drains = True
                self.num_drained += 1
                left_s = self.rng.choice([0.5, 5.0, float("inf")])
                self.scheduler.handle(ReplicaDraining(slot, left_s), self.now)
                if left_s < 100:
                    gone = ReplicaLost(slot, Failure(FailureKind.PREEMPTED, "node"))
                    self.later(slot, gone, left_s, place.incarnation)

    def deliver(self, slot: int, incarnation: int, event: Event) -> None:
        place = self.places.get(slot)
        if incarnation != -1:
            if place is None or place.incarnation != incarnation:
                return
            match event:
                case ReplicaReady():
                    place.ready = True
                case ReplicaLost():
                    del self.places[slot]
                case TaskFailed():
                    place.attempt = None
        ended = self.scheduler.handle(event, self.now)
        if isinstance(event, TaskFinished):
            self.delivered.add(event.receipt.task_id)
            if place is not None and place.attempt == event.receipt.attempt:
                place.attempt = None
        if ended is not None:
            self.ended.append(ended.id)
            if len(self.tasks) < 60 and self.rng.random() < 0.2:
                self.add(self.rng.randint(1, 3))


def check(world: World, outcome: Outcome) -> None:
    done, given_up = set(outcome.done), {s.task.id for s in outcome.set_aside}
    losses = outcome.losses
    assert losses.num_attempts == len(world.attempts)
    assert losses.num_second_attempts == world.num_second
    assert losses.num_drained <= world.num_drained
    assert losses.lost_s >= 0
    if world.trouble == 0.0 and not world.num_drained:
        assert losses.num_done_again == losses.lost_s == losses.num_lost_replicas == 0
    for record in world.scheduler._book.records.values():
        on_slots = [s for s in world.scheduler._slots if s.record is record]
        assert record.num_in_flight == len(on_slots) <= 2
    assert done == world.delivered, "exactly what a replica reported is done"
    assert sorted(world.ended) == sorted(done), "each task ends once"
    assert not done & given_up
    assert done | given_up | set(outcome.unfinished) == set(world.tasks)
    for aside in outcome.set_aside:
        kinds = [failure.kind for failure in aside.failures]
        num_strikes = kinds.count(FailureKind.REPLICA) + kinds.count(FailureKind.MEMORY)
        assert (
            kinds.count(FailureKind.TASK) >= POLICY.max_task_failures
            or num_strikes >= POLICY.max_strikes
            or kinds.count(FailureKind.PREEMPTED) >= POLICY.max_preemptions
        )
        # Two attempts at a time at most: no failure counts beyond those that ended the task.
        assert kinds.count(FailureKind.TASK) <= POLICY.max_task_failures + 1
        assert num_strikes <= POLICY.max_strikes + 1
        assert aside.reason
    if outcome.stop is None:
        assert not outcome.unfinished
    else:
        assert outcome.stop.message
        assert world.trouble > 0
    if world.trouble == 0.0:
        assert outcome.complete


@pytest.mark.parametrize("batch", range(NUM_BATCHES))
def test_random_schedules_end_with_every_task_done_or_set_aside(batch: int) -> None:
    outcomes, losses = [], []
    for seed in range(batch, NUM_SEEDS, NUM_BATCHES):
        world = World(seed)
        try:
            outcome = world.run()
            check(world, outcome)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        outcomes.append(outcome)
        losses.append(outcome.losses)
    assert sum(of.num_second_attempts for of in losses) > len(losses) / 20
    assert sum(of.num_drained for of in losses) > len(losses) / 20
    stopped = sum(outcome.stop is not None for outcome in outcomes)
    assert stopped < 0.1 * len(outcomes), "most schedules must run to their end to test anything"
    assert any(outcome.set_aside for outcome in outcomes)
