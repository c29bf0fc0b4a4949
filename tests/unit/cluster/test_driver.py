"""The driver's loop over backends that do as told, or nothing at all."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from cluster.backends.base import Backend
from cluster.driver import execute
from cluster.policy import Policy
from cluster.scheduler import Scheduler
from cluster.side_work import SideWork
from cluster.tasks import (
    Event,
    Failure,
    FailureKind,
    Pool,
    Receipt,
    ReplicaLost,
    ReplicaReady,
    Task,
    TaskFinished,
    WorkerFactory,
)

POOL = Pool("a", WorkerFactory("no:where"))


def make_tasks(*names: str) -> list[Task]:
    return [Task(name, "a", 1.0, {"rows": name}, None) for name in names]


class FakeBackend(Backend):
    """Starts at once and finishes at once, unless told to keep silent."""

    def __init__(self, silent_about: Iterable[str] = ()) -> None:
        self.silent_about = set(silent_about)
        self.events: list[Event] = []
        self.submitted: list[str] = []
        self.stopped: list[int] = []

    def start(self, slot: int, pool: Pool) -> None:
        if "start" not in self.silent_about:
            self.events.append(ReplicaReady(slot, {"device": "cpu"}))

    def submit(self, slot: int, task: Task, attempt: str) -> None:
        self.submitted.append(task.id)
        if task.id not in self.silent_about:
            self.events.append(TaskFinished(slot, Receipt(task.id, attempt, 1, 1, 0.1, {})))

    def stop(self, slot: int) -> None:
        self.stopped.append(slot)

    def poll(self, timeout_s: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        pass


def ticking(step_s: float = 1.0) -> Callable[[], float]:
    times = itertools.count(0.0, step_s)
    return lambda: next(times)


def scheduler_of(*names: str, policy: Policy | None = None) -> Scheduler:
    scheduler = Scheduler([POOL], 1, policy)
    scheduler.add(make_tasks(*names))
    return scheduler


def test_follow_up_tasks_run_in_the_same_run() -> None:
    seen: list[str] = []

    def follow_up(task: Task, receipt: Receipt) -> list[Task]:
        assert receipt.task_id == task.id
        seen.append(task.id)
        return make_tasks(f"{task.id}+") if len(task.id) < 4 else []

    outcome = execute(FakeBackend(), scheduler_of("a", "b"), on_finished=follow_up, clock=ticking())
    assert sorted(outcome.done) == ["a", "a+", "a++", "a+++", "b", "b+", "b++", "b+++"]
    assert sorted(seen) == sorted(outcome.done)
    assert outcome.complete


def test_a_task_that_is_reported_twice_has_one_follow_up() -> None:
    class Stutter(FakeBackend):
        def poll(self, timeout_s: float) -> list[Event]:
            return [event for event in super().poll(timeout_s) for _ in range(2)]

    follow_ups = iter(["x", "y"])
    outcome = execute(
        Stutter(),
        scheduler_of("a"),
        on_finished=lambda task, receipt: make_tasks(next(follow_ups)) if task.id == "a" else [],
        clock=ticking(),
    )
    assert sorted(outcome.done) == ["a", "x"]


def test_a_requested_stop_ends_at_once_and_keeps_what_is_done() -> None:
    backend = FakeBackend(silent_about=["b"])
    outcome = execute(
        backend,
        scheduler_of("a", "b", "c"),
        stop_requested=lambda: "b" in backend.submitted,
        clock=ticking(),
    )
    assert outcome.interrupted
    assert not outcome.complete
    assert list(outcome.done) == ["a"]
    assert outcome.unfinished == ("b", "c")


def test_a_callback_sees_every_event() -> None:
    events: list[Event] = []
    execute(
        FakeBackend(),
        scheduler_of("a", "b"),
        on_event=events.append,
        clock=ticking(),
    )
    assert [type(event).__name__ for event in events] == [
        "ReplicaReady",
        "TaskFinished",
        "TaskFinished",
    ]


def test_a_hung_task_is_killed_and_in_the_end_set_aside() -> None:
    backend = FakeBackend(silent_about=["a"])
    outcome = execute(backend, scheduler_of("a", "b"), clock=ticking(60.0))
    assert [aside.task.id for aside in outcome.set_aside] == ["a"]
    assert list(outcome.done) == ["b"]
    assert len(backend.stopped) == 3


def test_silence_past_every_deadline_stops_with_what_was_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A scheduler that does not keep its deadlines: the net below it must hold.
    scheduler = scheduler_of("a", policy=Policy(first_deadline_s=30.0, stall_s=20.0))
    monkeypatch.setattr(scheduler, "tick", lambda now: None)
    backend = FakeBackend(silent_about=["a"])
    times: list[float] = []
    clock = ticking()

    def noting() -> float:
        times.append(clock())
        return times[-1]

    outcome = execute(backend, scheduler, clock=noting)
    assert outcome.stop is not None
    assert "while waiting for task a in slot 0" in outcome.stop.message
    # The deadline of 300 s is the least that a task gets; then 20 s of silence.
    assert 320 < times[-1] < 330


def test_each_event_ends_the_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FakeBackend):
        polls = 0

        def poll(self, timeout_s: float) -> list[Event]:
            self.polls += 1
            return [] if self.polls % 5 else super().poll(timeout_s)

    scheduler = scheduler_of(*"abcdef", policy=Policy(stall_s=20.0))
    monkeypatch.setattr(scheduler, "quiet_until", lambda: float("-inf"))
    assert execute(Slow(), scheduler, clock=ticking()).complete


def test_a_run_in_which_much_happens_and_no_task_ends_is_stopped() -> None:
    class Preempted(FakeBackend):
        def submit(self, slot: int, task: Task, attempt: str) -> None:
            self.events.append(ReplicaLost(slot, Failure(FailureKind.PREEMPTED, "node")))

    policy = Policy(no_progress_s=500.0, max_preemptions=10**6)
    outcome = execute(Preempted(), scheduler_of("a", policy=policy), clock=ticking())
    assert outcome.stop is not None
    assert "no task ended for 50" in outcome.stop.message
    assert "while waiting for" in outcome.stop.message
    assert outcome.unfinished == ("a",)


def test_time_that_the_driver_slept_through_is_nobodys_delay() -> None:
    """A process that was stopped for an hour hears first of what was done meanwhile."""

    class Away(FakeBackend):
        num_polls = 0

        def poll(self, timeout_s: float) -> list[Event]:
            self.num_polls += 1
            if self.num_polls != 2:
                return super().poll(timeout_s)
            times.append(times[-1] + 3600.0)  # the replica is done, and nothing is heard of it yet
            return []

    times = [0.0]
    policy = Policy(first_deadline_s=30.0, min_deadline_s=30.0, stall_s=20.0)
    backend = Away()
    outcome = execute(backend, scheduler_of("a", policy=policy), clock=lambda: times[-1])
    assert outcome.complete
    assert backend.stopped == []
    assert backend.submitted == ["a"]


def test_a_stop_of_the_scheduler_ends_the_run() -> None:
    class CannotLoad(FakeBackend):
        def start(self, slot: int, pool: Pool) -> None:
            self.events.append(ReplicaLost(slot, Failure(FailureKind.RUN, "no model")))

    outcome = execute(CannotLoad(), scheduler_of("a"), clock=ticking())
    assert outcome.stop == Failure(FailureKind.RUN, "no model")
    assert outcome.unfinished == ("a",)


def test_what_a_callback_raises_reaches_the_caller() -> None:
    def broken(task: Task, receipt: Receipt) -> list[Task]:
        raise LookupError("group")

    with pytest.raises(LookupError, match="group"):
        execute(FakeBackend(), scheduler_of("a"), on_finished=broken, clock=ticking())


# -- side work ------------------------------------------------------------------------------------

HANG_S = 10.0


@pytest.fixture
def side() -> Iterator[SideWork]:
    made = SideWork()
    yield made
    made.close()


def waiting_for(may_end: threading.Event) -> Callable[[], list[Task]]:
    def wait() -> list[Task]:
        assert may_end.wait(HANG_S)
        return []

    return wait


class Breathing(FakeBackend):
    """Waits a moment in each poll, so that threads get on; keeps how long it was to wait."""

    def __init__(self, silent_about: Iterable[str] = ()) -> None:
        super().__init__(silent_about)
        self.timeouts: list[float] = []

    def poll(self, timeout_s: float) -> list[Event]:
        self.timeouts.append(timeout_s)
        time.sleep(0.001)
        return super().poll(timeout_s)


def test_a_run_ends_only_when_side_work_is_idle_and_its_tasks_have_run(side: SideWork) -> None:
    backend = Breathing()
    may_end = threading.Event()

    def slow() -> list[Task]:
        assert may_end.wait(HANG_S)
        return make_tasks("follows")

    def on_finished(task: Task, _: Receipt) -> list[Task]:
        if task.id == "a":
            side.submit("steps", slow)
            threading.Timer(0.05, may_end.set).start()
        return []

    outcome = execute(
        backend, scheduler_of("a"), on_finished=on_finished, side_work=side, clock=ticking(0.01)
    )
    assert list(outcome.done) == ["a", "follows"]
    assert outcome.complete
    # While side work is under way, what follows from it does not wait for a long poll.
    assert max(backend.timeouts[3:-2]) <= 0.02


def test_side_work_alone_makes_a_run(side: SideWork) -> None:
    """As in a run that has only answers to judge, which its own threads do."""
    may_end = threading.Event()
    side.submit("judge", waiting_for(may_end))
    threading.Timer(0.05, may_end.set).start()
    outcome = execute(Breathing(), scheduler_of(), side_work=side, clock=ticking(0.01))
    assert outcome.complete
    assert not side.is_busy


def test_an_error_of_side_work_reaches_the_caller(side: SideWork) -> None:
    def broken() -> list[Task]:
        raise LookupError("group")

    side.submit("steps", broken)
    with pytest.raises(LookupError, match="group"):
        execute(
            Breathing(silent_about=["a"]), scheduler_of("a"), side_work=side, clock=ticking(0.001)
        )


def test_no_stall_while_only_side_work_is_under_way_nor_right_after(side: SideWork) -> None:
    """The replicas have nothing to do then; their silence says nothing."""
    policy = Policy(stall_s=20.0, no_progress_s=50.0, first_deadline_s=30.0, min_deadline_s=30.0)
    polls_left = itertools.count(300, -1)  # of a second each
    may_end = threading.Event()

    class Counting(Breathing):
        def poll(self, timeout_s: float) -> list[Event]:
            if next(polls_left) == 0:
                may_end.set()
            return super().poll(timeout_s)

    def long() -> list[Task]:
        assert may_end.wait(HANG_S)
        return make_tasks("follows")

    def on_finished(task: Task, _: Receipt) -> list[Task]:
        if task.id == "a":
            side.submit("steps", long)
        return []

    outcome = execute(
        Counting(),
        scheduler_of("a", policy=policy),
        on_finished=on_finished,
        side_work=side,
        clock=ticking(0.5),
    )
    assert outcome.stop is None
    assert list(outcome.done) == ["a", "follows"]


def test_replicas_that_are_silent_beside_side_work_are_still_noticed(
    side: SideWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    side.submit("steps", waiting_for(may_end))
    scheduler = scheduler_of("a", policy=Policy(stall_s=20.0))
    monkeypatch.setattr(scheduler, "tick", lambda now: None)
    monkeypatch.setattr(scheduler, "quiet_until", lambda: float("-inf"))
    outcome = execute(FakeBackend(silent_about=["a"]), scheduler, side_work=side, clock=ticking())
    may_end.set()
    assert outcome.stop is not None
    assert "nothing happened for" in outcome.stop.message


def test_a_stop_of_the_scheduler_does_not_wait_for_side_work(side: SideWork) -> None:
    class CannotLoad(FakeBackend):
        def start(self, slot: int, pool: Pool) -> None:
            self.events.append(ReplicaLost(slot, Failure(FailureKind.RUN, "no model")))

    may_end = threading.Event()
    side.submit("steps", waiting_for(may_end))
    outcome = execute(CannotLoad(), scheduler_of("a"), side_work=side, clock=ticking())
    assert side.is_busy
    may_end.set()
    assert outcome.stop == Failure(FailureKind.RUN, "no model")


def test_a_requested_stop_does_not_wait_for_side_work(side: SideWork) -> None:
    may_end = threading.Event()
    side.submit("steps", waiting_for(may_end))
    calls = itertools.count()
    outcome = execute(
        FakeBackend(),
        scheduler_of("a"),
        side_work=side,
        stop_requested=lambda: next(calls) >= 5,
        clock=ticking(),
    )
    assert side.is_busy
    may_end.set()
    assert outcome.interrupted
    assert list(outcome.done) == ["a"]
