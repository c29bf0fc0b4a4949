"""Each rule of the scheduler on a fake clock; random schedules are in test_schedules.py."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest

from cluster.errors import CorruptPartError
from cluster.policy import Policy
from cluster.scheduler import Scheduler
from cluster.tasks import (
    Action,
    Failure,
    FailureKind,
    Pool,
    Receipt,
    ReplicaDraining,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    RunTask,
    StartReplica,
    StopReplica,
    Task,
    TaskFailed,
    TaskFinished,
    WorkerFactory,
)
from steersweep.errors import UserError

FACTORY = WorkerFactory("nowhere:nothing")
A, B = Pool("a", FACTORY), Pool("b", FACTORY)
QUICK = Policy(backoff_s=1.0, max_backoff_s=4.0, first_deadline_s=50, min_deadline_s=10)


def make_task(name: str, cost: float = 1.0, pool: str = "a") -> Task:
    return Task(name, pool, cost, {"rows": f"rows/{name}.parquet"}, payload=None)


def fault(kind: FailureKind, text: str = "ValueError: odd") -> Failure:
    return Failure(kind, text)


class Bench:
    """A scheduler, a clock that the test moves, and shorthand for the events."""

    def __init__(
        self,
        tasks: Iterable[Task],
        pools: tuple[Pool, ...] = (A,),
        num_slots: int = 1,
        policy: Policy = QUICK,
    ) -> None:
        numbers = itertools.count()
        self.scheduler = Scheduler(
            pools, num_slots, policy, attempt_suffix=lambda: f"{next(numbers):08}"
        )
        self.scheduler.add(tasks)
        self.now = 0.0
        self.running: dict[int, RunTask] = {}

    def step(self, wait_s: float = 0.0) -> list[Action]:
        self.now += wait_s
        self.scheduler.tick(self.now)
        actions = self.scheduler.actions(self.now)
        for action in actions:
            if isinstance(action, RunTask):
                self.running[action.slot] = action
        return actions

    def ready(self, *slots: int) -> list[Action]:
        for slot in slots:
            self.scheduler.handle(ReplicaReady(slot, {}), self.now)
        return self.step()

    def finish(self, slot: int = 0, after_s: float = 1.0) -> list[Action]:
        self.now += after_s
        self.scheduler.handle(TaskFinished(slot, receipt(self.running[slot])), self.now)
        return self.step()

    def fail(self, kind: FailureKind, slot: int = 0, text: str = "ValueError: odd") -> list[Action]:
        return self.fail_with(fault(kind, text), slot)

    def fail_with(self, failure: Failure, slot: int = 0) -> list[Action]:
        task_id = self.running[slot].task.id
        self.scheduler.handle(TaskFailed(slot, task_id, failure), self.now)
        return self.step()

    def lose(self, kind: FailureKind = FailureKind.REPLICA, slot: int = 0) -> list[Action]:
        self.scheduler.handle(ReplicaLost(slot, fault(kind, "gone")), self.now)
        return self.step()

    def replace(self, slot: int = 0) -> list[Action]:
        """Wait out any backoff and bring up the next replica."""
        assert self.step(QUICK.max_backoff_s) == [StartReplica(slot, A)]
        return self.ready(slot)


def receipt(run: RunTask) -> Receipt:
    return Receipt(run.task.id, run.attempt, 1, 1, 1.0, {"rows": "d"})


def started(actions: list[Action]) -> list[tuple[int, str]]:
    return [(a.slot, a.task.id) for a in actions if isinstance(a, RunTask)]


# -- readiness, order ---------------------------------------------------------------------------


def test_a_replica_gets_work_only_after_it_is_ready() -> None:
    bench = Bench([make_task("t")])
    assert bench.step() == [StartReplica(0, A)]
    assert bench.step(100.0) == []
    assert started(bench.ready(0)) == [(0, "t")]


def test_a_restarted_replica_gets_work_only_after_it_is_ready_again() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    assert bench.lose() == []
    assert bench.step(QUICK.max_backoff_s) == [StartReplica(0, A)]
    assert bench.step(1.0) == []
    assert started(bench.ready(0)) == [(0, "t")]


def test_one_task_at_a_time_longest_first_ties_by_insertion() -> None:
    bench = Bench([make_task("s", 1), make_task("m1", 2), make_task("m2", 2), make_task("l", 3)])
    bench.step()
    assert started(bench.ready(0)) == [(0, "l")]
    assert bench.step(1.0) == []
    assert started(bench.finish()) == [(0, "m1")]
    assert started(bench.finish()) == [(0, "m2")]
    assert started(bench.finish()) == [(0, "s")]
    assert bench.finish() == []
    assert bench.scheduler.finished
    outcome = bench.scheduler.outcome()
    assert outcome.complete
    assert list(outcome.done) == ["s", "m1", "m2", "l"]


def test_no_more_replicas_start_than_there_are_tasks() -> None:
    assert len(Bench([make_task("t"), make_task("u")], num_slots=5).step()) == 2


def test_attempts_have_their_own_ids() -> None:
    bench = Bench([make_task("0123456789abcdef")])
    bench.step()
    bench.ready(0)
    first = bench.running[0].attempt
    bench.fail(FailureKind.TASK)
    assert (first, bench.running[0].attempt) == (
        "0123456789ab-1-00000000",
        "0123456789ab-2-00000001",
    )


# -- pools and slots ----------------------------------------------------------------------------


def test_slots_go_to_pools_by_remaining_cost() -> None:
    tasks = [make_task(f"a{i}", 3) for i in range(4)] + [
        make_task(f"b{i}", 1, "b") for i in range(4)
    ]
    actions = Bench(tasks, (A, B), num_slots=4).step()
    assert [a.pool.name for a in actions if isinstance(a, StartReplica)] == ["a", "a", "a", "b"]


def test_cost_that_is_done_or_set_aside_attracts_no_slots() -> None:
    # The cost of what is done in pool b, and set aside in pool c, would beat that left in pool d.
    pools = tuple(Pool(name, FACTORY) for name in "abcd")
    tasks = [make_task("b0", 90, "b"), make_task("c0", 80, "c")]
    tasks += [make_task(f"b{i}", 1, "b") for i in (1, 2, 3)]
    tasks += [make_task(f"c{i}", 1, "c") for i in (1, 2, 3)]
    tasks += [make_task("a0", 70), *(make_task(f"d{i}", 10, "d") for i in (1, 2, 3))]
    bench = Bench(tasks, pools, num_slots=3)
    assert [a.pool.name for a in bench.step() if isinstance(a, StartReplica)] == ["b", "c", "a"]
    bench.ready(0, 1, 2)
    bench.finish(0)
    bench.fail(FailureKind.TASK, 1)
    assert started(bench.fail(FailureKind.TASK, 1)) == [(1, "c1")]
    assert bench.finish(2) == [StopReplica(2), StartReplica(2, pools[3])]


def test_an_idle_slot_moves_to_the_pool_that_has_no_slot() -> None:
    bench = Bench([make_task("a0", 5), make_task("b0", 1, "b")], (A, B))
    assert bench.step() == [StartReplica(0, A)]
    bench.ready(0)
    assert bench.finish() == [StopReplica(0), StartReplica(0, B)]
    assert started(bench.ready(0)) == [(0, "b0")]
    bench.finish()
    assert bench.scheduler.outcome().complete


@pytest.mark.parametrize(("num_waiting", "moves"), [(1, False), (2, True)])
def test_an_idle_slot_moves_only_where_more_tasks_wait_than_slots(
    num_waiting: int, moves: bool
) -> None:
    tasks = [make_task("a0", 20), make_task("b0", 10, "b")]
    tasks += [make_task(f"b{i + 1}", 1, "b") for i in range(num_waiting)]
    bench = Bench(tasks, (A, B), num_slots=2)
    bench.step()
    bench.ready(0, 1)
    expected = [StopReplica(0), StartReplica(0, B)] if moves else []
    assert bench.finish(0) == expected


def test_tasks_added_while_running_keep_the_run_open_and_use_the_idle_replica() -> None:
    bench = Bench([make_task("first")])
    bench.step()
    bench.ready(0)
    ended = bench.scheduler.handle(TaskFinished(0, receipt(bench.running[0])), bench.now)
    assert ended is not None
    assert ended.id == "first"
    bench.scheduler.add([make_task("second")])
    assert not bench.scheduler.finished
    assert started(bench.step()) == [(0, "second")]


# -- failures of the task -----------------------------------------------------------------------


def test_a_failing_task_is_tried_once_more_on_another_replica_then_set_aside() -> None:
    bench = Bench([make_task("bad", 9), make_task("x", 5), make_task("y", 4)], num_slots=2)
    bench.step()
    assert started(bench.ready(0, 1)) == [(0, "bad"), (1, "x")]
    assert started(bench.fail(FailureKind.TASK, 0)) == [(0, "y")]
    assert started(bench.finish(1)) == [(1, "bad")]
    bench.fail(FailureKind.TASK, 1, "KeyError: again")
    bench.finish(0)
    assert bench.scheduler.finished
    (given_up,) = bench.scheduler.outcome().set_aside
    assert given_up.task.id == "bad"
    assert given_up.reason == "2 attempts failed; the last error: KeyError: again"
    assert not bench.scheduler.outcome().complete


def test_a_failing_task_waits_for_the_other_replica_while_the_first_is_idle() -> None:
    bench = Bench([make_task("bad", 9), make_task("x", 5)], num_slots=2)
    bench.step()
    bench.ready(0, 1)
    assert bench.fail(FailureKind.TASK, 0) == []
    assert started(bench.finish(1)) == [(1, "bad")]


def test_a_failing_task_is_tried_again_on_the_only_replica() -> None:
    bench = Bench([make_task("bad")])
    bench.step()
    bench.ready(0)
    assert started(bench.fail(FailureKind.TASK)) == [(0, "bad")]
    bench.fail(FailureKind.TASK)
    assert bench.scheduler.finished


def test_a_replica_of_another_pool_is_no_alternative_for_a_failed_task() -> None:
    bench = Bench([make_task("bad", 9), make_task("b0", 8, "b")], (A, B), num_slots=2)
    bench.step()
    bench.ready(0, 1)
    assert started(bench.fail(FailureKind.TASK, 0)) == [(0, "bad")]


def test_a_failure_of_a_task_that_is_not_in_flight_changes_nothing() -> None:
    bench = Bench([make_task("t"), make_task("u")])
    bench.step()
    bench.ready(0)
    for _ in range(5):
        bench.scheduler.handle(TaskFailed(0, "u", fault(FailureKind.TASK)), bench.now)
    assert bench.step() == []
    assert started(bench.finish()) == [(0, "u")]


# -- failures of the replica --------------------------------------------------------------------


def test_a_task_is_set_aside_after_three_lost_replicas() -> None:
    bench = Bench([make_task("deadly", 9), make_task("fine")])
    bench.step()
    bench.ready(0)
    for _ in range(2):
        bench.lose()
        assert started(bench.replace()) == [(0, "deadly")]
    bench.lose()
    assert started(bench.replace()) == [(0, "fine")]
    bench.finish()
    outcome = bench.scheduler.outcome()
    assert [s.task.id for s in outcome.set_aside] == ["deadly"]
    assert len(outcome.set_aside[0].failures) == 3
    assert list(outcome.done) == ["fine"]


def device_failure() -> Failure:
    return Failure(FailureKind.REPLICA, "the device stopped working: X", device_is_lost=True)


def run_on_devices(bench: Bench, *, broken: Sequence[int] = (), deadly: Sequence[str] = ()) -> None:
    """Bring the run to its end; a device fails if its slot is broken or its task is deadly."""
    for _ in range(200):
        if bench.scheduler.finished:
            return
        for action in bench.step(1.0):
            if isinstance(action, StartReplica):
                bench.scheduler.handle(ReplicaReady(action.slot, {}), bench.now)
        for slot, run in sorted(bench.running.items()):
            if slot in broken or run.task.id in deadly:
                event = TaskFailed(slot, run.task.id, device_failure())
                bench.scheduler.handle(event, bench.now)
            else:
                bench.scheduler.handle(TaskFinished(slot, receipt(run)), bench.now)
        bench.running.clear()
    raise AssertionError("the run does not end")


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_a_task_that_breaks_every_device_is_set_aside_and_all_others_are_done(
    num_slots: int,
) -> None:
    tasks = [make_task("deadly", 9), *(make_task(f"t{i}") for i in range(9))]
    bench = Bench(tasks, num_slots=num_slots)
    run_on_devices(bench, deadly=["deadly"])
    outcome = bench.scheduler.outcome()
    assert outcome.stop is None
    assert len(outcome.done) == 9
    (given_up,) = outcome.set_aside
    assert given_up.task.id == "deadly"
    assert given_up.reason == "3 attempts failed; the last error: the device stopped working: X"


def test_a_task_that_breaks_the_device_is_set_aside_when_it_is_the_only_one() -> None:
    bench = Bench([make_task("deadly")])
    run_on_devices(bench, deadly=["deadly"])
    assert [s.task.id for s in bench.scheduler.outcome().set_aside] == ["deadly"]


@pytest.mark.parametrize("broken", [0, 1])
def test_a_broken_device_sets_no_task_aside_and_is_given_up(broken: int) -> None:
    bench = Bench([make_task(f"t{i}") for i in range(30)], num_slots=2)
    run_on_devices(bench, broken=[broken])
    outcome = bench.scheduler.outcome()
    assert outcome.complete
    assert outcome.losses.num_lost_replicas == QUICK.max_device_losses


def test_a_broken_device_on_the_only_slot_stops_the_run_and_sets_no_task_aside() -> None:
    bench = Bench([make_task(f"t{i}") for i in range(9)])
    run_on_devices(bench, broken=[0])
    outcome = bench.scheduler.outcome()
    assert not outcome.set_aside
    assert len(outcome.unfinished) == 9
    records = bench.scheduler._book.records.values()
    assert all(record.num_strikes == 0 and not record.failures for record in records)
    assert outcome.stop is not None
    assert outcome.stop.message == (
        "the last device failed under 3 different tasks in a row; the device stopped working: X"
    )


def test_a_task_goes_to_another_slot_than_the_one_whose_device_failed_under_it() -> None:
    bench = Bench([make_task("t", 9), *(make_task(f"x{i}", 5) for i in range(3))], num_slots=2)
    bench.step()
    assert started(bench.ready(0, 1)) == [(0, "t"), (1, "x0")]
    bench.scheduler.handle(TaskFailed(0, "t", device_failure()), bench.now)
    assert bench.step() == [StopReplica(0)]
    assert started(bench.replace(0)) == [(0, "x1")]
    assert started(bench.finish(1)) == [(1, "t")]


def test_a_task_that_was_not_in_flight_gets_no_strike() -> None:
    bench = Bench([make_task("t")])
    for _ in range(2):
        bench.step(QUICK.max_backoff_s)
        bench.lose()
    bench.step(QUICK.max_backoff_s)
    bench.ready(0)
    for _ in range(2):
        bench.lose()
        bench.replace()
    bench.finish()
    assert bench.scheduler.outcome().complete


def test_a_lost_replica_reported_by_its_call_is_stopped_and_replaced() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    assert bench.fail(FailureKind.REPLICA) == [StopReplica(0)]
    assert started(bench.replace()) == [(0, "t")]


def test_restarts_back_off() -> None:
    bench = Bench([make_task(f"t{i}") for i in range(9)], policy=Policy(backoff_s=2.0))
    bench.step()
    waits = []
    for _ in range(4):
        bench.ready(0)
        actions = bench.lose()
        waits.append(0.0)
        while not actions:
            waits[-1] += 0.25
            actions = bench.step(0.25)
    for wait, full in zip(waits, [2.0, 4.0, 8.0, 16.0], strict=True):
        assert full / 2 <= wait <= full + 0.25


def test_a_finished_task_ends_the_growth_of_the_waits() -> None:
    bench = Bench([make_task(f"t{i}") for i in range(9)], policy=Policy(backoff_s=2.0))
    for _ in range(5):
        assert bench.step(2.0) == [StartReplica(0, A)], "never more than the first wait"
        bench.ready(0)
        bench.finish()
        bench.lose()


def test_a_lost_replica_is_replaced_while_another_is_busy() -> None:
    bench = Bench([make_task("t"), make_task("u")], num_slots=2)
    bench.step()
    bench.ready(0, 1)
    bench.lose(slot=0)
    assert bench.step(QUICK.max_backoff_s) == [StartReplica(0, A)]


def test_a_stale_ready_does_not_bring_back_a_lost_replica() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    bench.lose()
    assert bench.ready(0) == []


def test_preemption_is_free() -> None:
    bench = Bench([make_task("t")])
    for _ in range(10):
        assert bench.step(QUICK.backoff_s) == [StartReplica(0, A)]
        bench.lose(FailureKind.PREEMPTED)
    for _ in range(10):
        assert bench.step(QUICK.backoff_s) == [StartReplica(0, A)]
        assert started(bench.ready(0)) == [(0, "t")]
        bench.lose(FailureKind.PREEMPTED)
    bench.replace()
    bench.finish()
    assert bench.scheduler.outcome().complete


def test_a_task_under_which_nodes_die_for_ever_is_set_aside() -> None:
    bench = Bench([make_task("t")])
    for _ in range(QUICK.max_preemptions):
        bench.step(QUICK.max_backoff_s)
        assert started(bench.ready(0)) == [(0, "t")]
        bench.lose(FailureKind.PREEMPTED)
    assert [s.task.id for s in bench.scheduler.outcome().set_aside] == ["t"]


def test_out_of_memory_costs_a_slot_first_and_the_task_nothing() -> None:
    bench = Bench([make_task("large", 9), make_task("x", 3), make_task("y", 3)], num_slots=3)
    bench.step()
    assert len(started(bench.ready(0, 1, 2))) == 3
    bench.lose(FailureKind.MEMORY, slot=0)
    for _ in range(10):
        assert bench.step(QUICK.max_backoff_s / 10) == [], "the slot is gone"
    # It runs where another task ends, and that it died of memory before is not held against it.
    assert started(bench.finish(1)) == [(1, "large")]
    for _ in range(3):
        assert not bench.scheduler.outcome().set_aside
        bench.lose(FailureKind.MEMORY, slot=1)
        bench.step(QUICK.max_backoff_s)
        bench.ready(1)
    assert [s.task.id for s in bench.scheduler.outcome().set_aside] == ["large"]
    bench.finish(2)
    assert sorted(bench.scheduler.outcome().done) == ["x", "y"]


def test_out_of_memory_on_the_last_slot_is_a_lost_replica() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    for _ in range(QUICK.max_strikes - 1):
        bench.lose(FailureKind.MEMORY)
        assert started(bench.replace()) == [(0, "t")]
    bench.lose(FailureKind.MEMORY)
    assert [s.task.id for s in bench.scheduler.outcome().set_aside] == ["t"]


def test_a_load_that_finds_no_memory_is_tried_with_fewer_replicas() -> None:
    bench = Bench([make_task("t"), make_task("u")], num_slots=2)
    bench.step()
    bench.lose(FailureKind.MEMORY, slot=1)
    assert bench.step(QUICK.max_backoff_s) == []
    assert started(bench.ready(0)) == [(0, "t")]
    for _ in range(2):
        bench.finish()
    assert bench.scheduler.outcome().complete


# -- starts -------------------------------------------------------------------------------------


def test_a_pool_that_never_becomes_ready_stops_the_run() -> None:
    bench = Bench([make_task("t")])
    for _ in range(2):
        assert bench.step(QUICK.max_backoff_s) == [StartReplica(0, A)]
        bench.lose()
        assert not bench.scheduler.finished
    bench.step(QUICK.max_backoff_s)
    bench.lose()
    outcome = bench.scheduler.outcome()
    assert outcome.stop is not None
    assert outcome.stop.message == (
        "no replica of a became ready: 3 starts failed in a row; the last error: gone"
    )
    assert outcome.unfinished == ("t",)


def test_three_failed_starts_stop_a_pool_on_several_slots_too() -> None:
    bench = Bench([make_task(f"t{i}") for i in range(9)], num_slots=2)
    bench.step()
    for slot in (0, 1):
        bench.lose(slot=slot)
    bench.step(QUICK.max_backoff_s)
    bench.lose(slot=0)
    assert not bench.scheduler.finished, "the replica in slot 1 is still starting"
    bench.lose(slot=1)
    assert bench.scheduler.outcome().stop is not None


def test_failed_starts_count_only_in_a_row() -> None:
    bench = Bench([make_task("t", 9)], policy=Policy(max_strikes=99))
    for _ in range(4):
        for _ in range(2):
            bench.step(60.0)
            bench.lose()
        bench.step(60.0)
        bench.ready(0)
        bench.lose()
    assert not bench.scheduler.finished
    for _ in range(3):
        bench.step(60.0)
        bench.lose()
    stop = bench.scheduler.outcome().stop
    assert stop is not None
    assert stop.message.startswith("no replica of a became ready: 3 starts failed in a row")


def test_a_slot_that_cannot_start_is_given_up_while_another_works() -> None:
    bench = Bench([make_task(f"t{i}") for i in range(9)], num_slots=2)
    bench.step()
    bench.ready(1)
    for attempt in range(3):
        if attempt:
            assert bench.step(QUICK.max_backoff_s) == [StartReplica(0, A)]
        bench.lose(slot=0)
    assert bench.step(QUICK.max_backoff_s) == []
    for _ in range(9):
        bench.finish(1, after_s=0.1)
    assert bench.scheduler.outcome().complete


def test_a_start_past_its_deadline_is_killed_and_counts() -> None:
    bench = Bench([make_task("t")], policy=Policy(start_deadline_s=5.0, backoff_s=1.0))
    for _ in range(2):
        assert bench.step(4.0) == [StartReplica(0, A)]
        assert bench.step(5.0) == []
        assert bench.step(0.1) == [StopReplica(0)]
    bench.step(4.0)
    assert bench.step(5.1) == [StopReplica(0)]
    stop = bench.scheduler.outcome().stop
    assert stop is not None
    assert "no node had room for the replica within 5 s" in stop.message


def test_time_spent_waiting_for_a_node_is_not_taken_from_the_load() -> None:
    policy = Policy(start_deadline_s=5.0, wait_for_nodes_s=100.0, backoff_s=1.0)
    bench = Bench([make_task("t")], policy=policy)
    assert bench.step() == [StartReplica(0, A)]
    assert bench.scheduler.awaited() == "room for a replica of a in slot 0"
    assert bench.step(104.0) == []
    bench.scheduler.handle(ReplicaPlaced(0), bench.now)
    assert bench.scheduler.awaited() == "a replica of a in slot 0"
    assert bench.scheduler.quiet_until() == bench.now + 5.0
    assert bench.step(4.9) == []
    assert bench.step(0.2) == [StopReplica(0)]
    bench.step(4.0)
    assert bench.scheduler.awaited() == "room for a replica of a in slot 0", "of the next one"
    assert bench.step(105.1) == [StopReplica(0)]


def test_a_place_that_is_heard_of_late_changes_nothing() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    before = bench.scheduler.quiet_until()
    bench.scheduler.handle(ReplicaPlaced(0), bench.now + 1.0)
    assert bench.scheduler.quiet_until() == before


def test_a_worker_that_cannot_load_stops_the_run_at_once() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.lose(FailureKind.RUN)
    assert bench.scheduler.outcome().stop == fault(FailureKind.RUN, "gone")


def test_a_failed_load_is_retried_once_the_pool_has_shown_that_it_can_load() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    bench.lose()
    bench.step(QUICK.max_backoff_s)
    bench.lose(FailureKind.RUN)
    assert not bench.scheduler.finished
    bench.replace()
    bench.finish()
    assert bench.scheduler.outcome().complete


def test_what_the_user_must_change_stops_the_run_whenever_it_comes() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    bench.lose()
    bench.step(QUICK.max_backoff_s)
    failure = Failure(FailureKind.RUN, "choose another", user_must_act=True)
    bench.scheduler.handle(ReplicaLost(0, failure), bench.now)
    assert bench.scheduler.outcome().stop == failure


# -- storage, stop ------------------------------------------------------------------------------


def test_storage_trouble_is_retried_with_growing_waits_and_then_stops_the_run() -> None:
    policy = Policy(backoff_s=1.0, max_backoff_s=8.0, max_storage_retries=5)
    bench = Bench([make_task("t")], policy=policy)
    bench.step()
    bench.ready(0)
    waits = []
    for _ in range(5):
        assert bench.fail(FailureKind.STORAGE, text="OSError: 503") == []
        assert not bench.scheduler.finished
        waits.append(0.0)
        while not started(bench.step(0.25)):
            waits[-1] += 0.25
    for wait, full in zip(waits, [1.0, 2.0, 4.0, 8.0, 8.0], strict=True):
        assert full / 2 - 0.25 <= wait <= full
    bench.fail(FailureKind.STORAGE, text="OSError: 503")
    stop = bench.scheduler.outcome().stop
    assert stop is not None
    assert stop.message == "storage failed 6 times in a row: OSError: 503"


def test_storage_trouble_counts_only_in_a_row() -> None:
    policy = Policy(backoff_s=1.0, max_backoff_s=1.0, max_storage_retries=2)
    bench = Bench([make_task("t")], policy=policy)
    bench.step()
    bench.ready(0)
    for _ in range(2):
        bench.fail(FailureKind.STORAGE)
        bench.step(1.0)
    bench.fail(FailureKind.TASK)
    for _ in range(2):
        bench.fail(FailureKind.STORAGE)
        assert started(bench.step(1.0)) == [(0, "t")]


def test_a_replica_is_kept_for_a_task_that_waits_for_storage() -> None:
    bench = Bench([make_task("t", 9), make_task("b0", 1, "b")], (A, B))
    bench.step()
    bench.ready(0)
    assert bench.fail(FailureKind.STORAGE) == []
    assert started(bench.step(1.0)) == [(0, "t")]


def test_waits_are_the_same_for_the_same_seed_only() -> None:
    def waits(seed: int) -> list[float]:
        policy = Policy(seed=seed)
        scheduler = Scheduler([A], 1, policy)
        return [policy.wait_s(n, scheduler._rng) for n in range(1, 9)]

    assert waits(1) == waits(1)
    assert waits(1) != waits(2)


def test_a_failure_of_the_run_stops_everything_with_its_reason() -> None:
    bench = Bench([make_task("t"), make_task("u")])
    bench.step()
    bench.ready(0)
    assert bench.fail(FailureKind.RUN, text="bucket b does not exist") == []
    assert bench.scheduler.finished
    outcome = bench.scheduler.outcome()
    assert outcome.stop == fault(FailureKind.RUN, "bucket b does not exist")
    assert outcome.unfinished == ("t", "u")
    assert bench.step(1000.0) == []


def test_the_first_reason_to_stop_stays() -> None:
    bench = Bench([make_task("t")])
    bench.scheduler.stop(fault(FailureKind.RUN, "first"))
    bench.scheduler.stop(fault(FailureKind.RUN, "second"))
    assert bench.scheduler.outcome().stop == fault(FailureKind.RUN, "first")


# -- deadlines ----------------------------------------------------------------------------------


def test_a_task_past_its_deadline_is_killed_and_struck_and_gets_twice_the_time() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    assert bench.step(50.0) == []
    assert bench.step(0.1) == [StopReplica(0)]
    bench.replace()
    assert bench.step(100.0) == []
    assert bench.step(0.1) == [StopReplica(0)]
    bench.replace()
    assert bench.step(200.1) == [StopReplica(0)]
    (given_up,) = bench.scheduler.outcome().set_aside
    assert [f.kind for f in given_up.failures] == [FailureKind.REPLICA] * 3
    assert given_up.failures[0].message == "task was not done within 50 s"


def test_deadlines_follow_the_slowest_rate_seen_in_the_pool() -> None:
    bench = Bench([make_task("l", 4), make_task("m", 3), make_task("s", 2)])
    bench.step()
    bench.ready(0)
    bench.finish(after_s=40.0)
    bench.finish(after_s=3.0)
    assert bench.step(200.0) == []
    assert bench.step(0.1) == [StopReplica(0)]


@pytest.mark.parametrize(
    ("cost", "rate", "strikes", "expected"),
    [(2, None, 0, 50), (2, None, 2, 200), (2, 0.1, 0, 10), (2, 5.0, 0, 100), (2, 5.0, 1, 200)],
)
def test_deadline_has_a_floor_a_factor_and_doubles(
    cost: float, rate: float | None, strikes: int, expected: float
) -> None:
    assert QUICK.deadline_s(cost, rate, strikes) == expected


# -- late results -------------------------------------------------------------------------------


def test_a_late_result_marks_the_task_done_and_its_retry_changes_nothing() -> None:
    bench = Bench([make_task("t"), make_task("u")])
    bench.step()
    bench.ready(0)
    first = bench.running[0]
    bench.lose()
    bench.replace()
    assert bench.running[0].task.id == "t"
    late = TaskFinished(0, receipt(first))
    ended = bench.scheduler.handle(late, bench.now)
    assert ended is not None
    assert bench.scheduler.handle(late, bench.now) is None
    assert bench.step() == [], "the retry is still in flight on the slot"
    assert started(bench.fail(FailureKind.TASK)) == [(0, "u")]
    bench.finish()
    outcome = bench.scheduler.outcome()
    assert outcome.complete
    assert outcome.done["t"].attempt == first.attempt


def test_a_late_result_takes_a_waiting_task_out_of_the_queue() -> None:
    bench = Bench([make_task("t"), make_task("u")])
    bench.step()
    bench.ready(0)
    first = bench.running[0]
    bench.lose()
    bench.scheduler.handle(TaskFinished(0, receipt(first)), bench.now)
    assert started(bench.replace()) == [(0, "u")]
    bench.finish()
    assert bench.scheduler.outcome().complete


def test_a_late_result_ends_the_wait_for_storage() -> None:
    bench = Bench([make_task("t"), make_task("u")])
    bench.step()
    bench.ready(0)
    first = bench.running[0]
    assert started(bench.fail(FailureKind.STORAGE)) == [(0, "u")]
    bench.scheduler.handle(TaskFinished(0, receipt(first)), bench.now)
    assert bench.step(10.0) == []
    assert bench.finish() == []
    assert bench.scheduler.outcome().complete


def test_a_late_result_brings_back_a_task_that_was_set_aside() -> None:
    bench = Bench([make_task("t")])
    bench.step()
    bench.ready(0)
    first = bench.running[0]
    bench.fail(FailureKind.TASK)
    bench.fail(FailureKind.TASK)
    assert bench.scheduler.outcome().set_aside
    bench.scheduler.handle(TaskFinished(0, receipt(first)), bench.now)
    assert bench.scheduler.outcome().complete
    assert bench.scheduler.finished


# -- breaker ------------------------------------------------------------------------------------


def fail_all(bench: Bench, texts: Iterable[str]) -> None:
    bench.step()
    bench.ready(0)
    for text in texts:
        if bench.scheduler.finished:
            return
        bench.fail(FailureKind.TASK, text=text)


def test_the_run_stops_when_the_first_attempts_all_fail_alike() -> None:
    bench = Bench([make_task(f"t{i:02}") for i in range(50)])
    fail_all(bench, [f"ValueError: example {i}" for i in range(7)])
    assert not bench.scheduler.finished
    bench.fail(FailureKind.TASK, text="ValueError: example 7")
    stop = bench.scheduler.outcome().stop
    assert stop is not None
    assert stop.message == (
        "the first 8 attempts all failed in the same way; the last: ValueError: example 7"
    )


def test_different_failures_or_one_success_keep_the_run_going() -> None:
    bench = Bench([make_task(f"t{i:02}") for i in range(50)])
    fail_all(bench, ["ValueError: x"] * 7 + ["KeyError: x"] * 5)
    assert not bench.scheduler.finished
    bench = Bench([make_task(f"t{i:02}") for i in range(50)])
    bench.step()
    bench.ready(0)
    bench.finish()
    fail_all(bench, ["ValueError: x"] * 12)
    assert not bench.scheduler.finished


def test_errors_for_the_user_are_told_apart_by_their_type() -> None:
    """Their messages are bare texts, without the type that other failures are told apart by."""
    for last, stops in ((UserError, True), (CorruptPartError, False)):
        bench = Bench([make_task(f"t{i:02}") for i in range(50)])
        bench.step()
        bench.ready(0)
        errors = [UserError(f"example {i}: too long") for i in range(7)]
        for error in (*errors, last("x: y")):
            bench.fail_with(Failure.from_exception(FailureKind.TASK, error))
        stop = bench.scheduler.outcome().stop
        assert (stop is not None) is stops
        assert stop is None or stop.message.endswith("in the same way; the last: x: y")


@pytest.mark.parametrize(("num_tasks", "num_allowed"), [(50, 9), (400, 20)])
def test_the_run_stops_when_too_many_tasks_are_set_aside(num_tasks: int, num_allowed: int) -> None:
    bench = Bench([make_task(f"t{i:03}") for i in range(num_tasks)])
    bench.step()
    bench.ready(0)
    bench.finish()
    fail_all(bench, ["ValueError: x"] * (2 * num_allowed + 1))
    assert not bench.scheduler.finished
    bench.fail(FailureKind.TASK)
    outcome = bench.scheduler.outcome()
    assert outcome.stop is not None
    assert f"{num_allowed + 1} of {num_tasks} tasks were set aside" in outcome.stop.message


# -- the edges ----------------------------------------------------------------------------------


def test_wrong_tasks_are_refused() -> None:
    bench = Bench([make_task("t")])
    with pytest.raises(ValueError, match="added before"):
        bench.scheduler.add([make_task("t")])
    with pytest.raises(ValueError, match="pools are a"):
        bench.scheduler.add([make_task("u", pool="c")])
    for cost in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="cost of task"):
            make_task("u", cost)
    with pytest.raises(ValueError, match="num_slots"):
        Scheduler([A], 0)
    with pytest.raises(ValueError, match="names must differ"):
        Scheduler([A, A], 1)


def test_quiet_until_covers_starts_tasks_and_waits() -> None:
    bench = Bench([make_task("t")])
    assert bench.scheduler.quiet_until() == float("-inf")
    bench.step()
    assert bench.scheduler.quiet_until() == QUICK.start_deadline_s
    bench.ready(0)
    assert bench.scheduler.quiet_until() == QUICK.first_deadline_s
    assert bench.scheduler.awaited() == "task t in slot 0"
    bench.fail(FailureKind.STORAGE)
    assert 0.5 <= bench.scheduler.quiet_until() <= 1.0


def test_progress_counts() -> None:
    bench = Bench([make_task("t", 3), make_task("u", 2)])
    bench.step()
    bench.ready(0)
    bench.finish()
    progress = bench.scheduler.progress()
    assert (progress.num_tasks, progress.num_done, progress.num_in_flight) == (2, 1, 1)
    assert (progress.done_cost, progress.total_cost, progress.num_ready_replicas) == (3, 5, 1)


def test_what_travels_between_processes_pickles() -> None:
    facts: Mapping[str, str] = {"device": "cpu"}
    for value in (make_task("t"), A, fault(FailureKind.TASK), ReplicaReady(0, facts)):
        assert pickle.loads(pickle.dumps(value)) == value


# -- urgent tasks -------------------------------------------------------------------------------


def urgent(name: str, cost: float = 1.0) -> Task:
    return replace(make_task(name, cost), is_urgent=True)


def test_urgent_tasks_go_before_longer_ones_in_the_order_of_their_cost() -> None:
    bench = Bench([make_task("long", 9.0), urgent("short"), urgent("fit", 2.0)])
    bench.step()
    order = started(bench.ready(0)) + started(bench.finish())
    bench.scheduler.add([urgent("late", 0.5)])
    order += started(bench.finish()) + started(bench.finish())
    assert [name for _, name in order] == ["fit", "short", "late", "long"]


def test_an_urgent_task_says_nothing_of_how_long_the_others_take() -> None:
    bench = Bench([urgent("fit"), make_task("t", 2.0), make_task("u")])
    bench.step()
    bench.ready(0)
    bench.finish(after_s=0.01)
    assert bench.running[0].task.id == "t"
    # Nothing is timed yet: the first deadline of 50 s.
    assert bench.step(49.0) == []
    bench.finish(after_s=0.0)
    # 24.5 s for each unit of cost, and a replica that is timed.
    assert bench.running[0].task.id == "u"
    assert bench.step(244.0) == []
    assert StopReplica(0) in bench.step(2.0)


def test_an_urgent_task_has_the_first_deadline_whatever_was_timed() -> None:
    bench = Bench([make_task("t"), make_task("rest")])
    bench.step()
    bench.ready(0)
    bench.finish(after_s=0.1)
    bench.finish(after_s=0.1)  # 10 s, the least deadline, for the tasks of this replica
    bench.scheduler.add([urgent("fit", 0.001)])
    assert started(bench.step()) == [(0, "fit")]
    assert bench.step(49.0) == []
    assert StopReplica(0) in bench.step(2.0)


def test_an_urgent_task_is_not_run_a_second_time() -> None:
    policy = replace(QUICK, first_deadline_s=5000.0, min_deadline_s=5000.0, least_gain_s=1.0)

    def attempts(slow: Task) -> list[str]:
        bench = Bench([slow, *(make_task(f"t{n}") for n in range(5))], num_slots=2, policy=policy)
        bench.step()
        bench.ready(0, 1)
        for _ in range(5):
            bench.finish(1, after_s=10.0)
        bench.step(100.0)
        return [run.task.id for run in bench.running.values()]

    assert attempts(make_task("slow")) == ["slow", "slow"]
    assert attempts(urgent("slow")) == ["slow", "t4"]


def test_an_urgent_task_on_a_draining_replica_may_be_done_in_time() -> None:
    """What others took does not say that it cannot: a fit is as short as it is rare."""

    def actions(last: Task) -> list[Action]:
        bench = Bench([make_task(f"t{n}", 2.0) for n in range(4)], policy=QUICK)
        bench.step()
        bench.ready(0)
        for _ in range(4):
            bench.finish(after_s=20.0)
        bench.scheduler.add([last])
        bench.step()
        assert bench.running[0].task.id == last.id
        bench.scheduler.handle(ReplicaDraining(0, 5.0), bench.now)
        return bench.step()

    assert StopReplica(0) in actions(make_task("t"))
    assert StopReplica(0) not in actions(urgent("fit"))
