"""Nodes that come and go, slow tasks, and what that cost, on a fake clock."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cluster.policy import Policy
from cluster.tasks import (
    FailureKind,
    ReplicaDraining,
    RoomChanged,
    StartReplica,
    StopReplica,
    TaskFinished,
)
from tests.unit.cluster.test_scheduler import A, B, Bench, fault, make_task, receipt, started

QUICK = Policy(
    backoff_s=1.0, max_backoff_s=4.0, first_deadline_s=500, min_deadline_s=500, least_gain_s=1.0
)


def bench_of(num_tasks: int, num_slots: int, policy: Policy = QUICK) -> Bench:
    """Replicas that are ready and busy, on the first tasks t0, t1, ..."""
    tasks = [make_task(f"t{n}", 10) for n in range(num_tasks)]
    bench = Bench(tasks, num_slots=num_slots, policy=policy)
    bench.step()
    bench.ready(*range(min(num_tasks, num_slots)))
    return bench


def drain(bench: Bench, slot: int, left_s: float = math.inf) -> list[object]:
    bench.scheduler.handle(ReplicaDraining(slot, left_s), bench.now)
    return list(bench.step())


def room(bench: Bench, num_replicas: int) -> list[object]:
    bench.scheduler.handle(RoomChanged(num_replicas), bench.now)
    return list(bench.step())


# -- joining and leaving ------------------------------------------------------------------------


def test_a_node_that_joins_gets_replicas_as_long_as_tasks_wait() -> None:
    bench = bench_of(4, 2)
    assert room(bench, 5) == [StartReplica(2, A), StartReplica(3, A)]
    bench.ready(2, 3)
    assert {run.task.id for run in bench.running.values()} == {"t0", "t1", "t2", "t3"}


def test_a_lost_replica_is_not_replaced_where_there_is_no_room_left_and_is_when_there_is() -> None:
    bench = bench_of(4, 2)
    room(bench, 1)
    bench.lose(FailureKind.PREEMPTED, slot=0)
    for _ in range(10):
        assert bench.step(QUICK.max_backoff_s) == []
    assert room(bench, 2) == [StartReplica(0, A)]


def test_without_any_room_one_replica_waits_for_it() -> None:
    bench = bench_of(4, 2)
    room(bench, 0)
    bench.lose(FailureKind.PREEMPTED, slot=0)
    bench.lose(FailureKind.PREEMPTED, slot=1)
    assert bench.step(QUICK.max_backoff_s) == [StartReplica(0, A)]
    assert bench.scheduler.quiet_until() == bench.now + QUICK.start_deadline_s


def test_a_start_for_which_there_is_no_room_any_more_is_given_up_after_a_while() -> None:
    bench = Bench([make_task(f"t{n}", 10) for n in range(4)], num_slots=2, policy=QUICK)
    bench.step()
    bench.ready(0)
    assert room(bench, 1) == []
    assert bench.step(QUICK.room_s - 1) == []
    assert bench.step(1.0) == [StopReplica(1)]
    assert bench.scheduler.outcome().losses.num_lost_replicas == 0
    assert room(bench, 2) == [StartReplica(1, A)]


def test_a_slot_that_memory_cost_does_not_come_back_with_more_room() -> None:
    bench = bench_of(6, 2)
    bench.lose(FailureKind.MEMORY, slot=0)
    assert room(bench, 3) == [StartReplica(2, A)]


# -- draining -----------------------------------------------------------------------------------


def test_a_draining_replica_finishes_its_task_gets_no_other_and_is_replaced_elsewhere() -> None:
    bench = bench_of(4, 2)
    # The room elsewhere, if there is any, is used at once.
    assert drain(bench, 0) == [StartReplica(2, A)]
    assert bench.step(5.0) == []
    actions = bench.finish(0)
    assert actions == [StopReplica(0)]
    assert started(bench.ready(2)) == [(2, "t2")]
    outcome = bench.scheduler.outcome()
    assert list(outcome.done) == ["t0"]
    losses = outcome.losses
    assert (losses.num_drained, losses.num_lost_replicas, losses.num_done_again) == (1, 0, 0)


def test_a_task_that_will_not_be_done_in_time_goes_back_at_no_cost() -> None:
    bench = bench_of(9, 2)
    for slot in (0, 1):
        bench.finish(slot, after_s=20.0)
    task_id = bench.running[1].task.id
    actions = drain(bench, 1, left_s=5.0)
    assert StopReplica(1) in actions
    record = bench.scheduler._book.records[task_id]
    assert (record.num_strikes, record.num_preemptions, record.failures) == (0, 0, [])
    assert bench.finish(0)
    assert bench.running[0].task.id == task_id
    assert bench.scheduler.outcome().losses.num_done_again == 1


def test_a_task_that_may_be_done_in_time_is_left_to_finish() -> None:
    bench = bench_of(9, 2)
    for slot in (0, 1):
        bench.finish(slot, after_s=20.0)
    assert StopReplica(0) not in drain(bench, 0, left_s=200.0)


def test_a_draining_replica_without_a_task_is_given_up_at_once() -> None:
    bench = bench_of(2, 2)
    bench.finish(0)
    assert drain(bench, 0) == [StopReplica(0)]
    bench = Bench([make_task("t0")], policy=QUICK)
    bench.step()
    assert drain(bench, 0) == [StopReplica(0), StartReplica(0, A)]


def test_the_successor_of_a_drained_replica_is_given_work() -> None:
    bench = Bench([make_task("t0")], policy=QUICK)
    bench.step()
    drain(bench, 0, left_s=1.0)
    assert started(bench.ready(0)) == [(0, "t0")]
    assert bench.step(10.0) == []


# -- slow tasks ---------------------------------------------------------------------------------


def slow_bench(policy: Policy = QUICK) -> Bench:
    """t0 is under way in slot 0 for 60 s, all others took 10 s, and slot 1 is idle."""
    bench = bench_of(6, 2, policy)
    for _ in range(5):
        bench.finish(1, after_s=10.0)
    return bench


def test_a_slow_task_is_run_a_second_time_where_nothing_waits_and_the_first_result_counts() -> None:
    bench = slow_bench()
    second = bench.running[1]
    assert second.task.id == "t0"
    first = bench.running[0]
    assert second.attempt != first.attempt
    ended = bench.scheduler.handle(TaskFinished(1, receipt(second)), bench.now + 10)
    assert ended is not None
    assert bench.scheduler.finished
    assert bench.scheduler.handle(TaskFinished(0, receipt(first)), bench.now + 20) is None
    outcome = bench.scheduler.outcome()
    assert outcome.complete
    assert outcome.done["t0"].attempt == second.attempt
    losses = outcome.losses
    assert (losses.num_second_attempts, losses.num_done_again, losses.lost_s) == (1, 0, 0.0)


def test_there_is_one_second_attempt_at_a_time() -> None:
    bench = bench_of(7, 3)
    for _ in range(3):
        bench.finish(1, after_s=10.0)
        bench.finish(2, after_s=0.0)
    assert [run.task.id for run in bench.running.values()].count("t0") == 2
    assert bench.step(100.0) == []


def test_a_task_is_left_alone_that_is_not_slow_or_had_failed() -> None:
    bench = bench_of(6, 2)
    for _ in range(5):
        bench.finish(1, after_s=1.0)
    # 5 s in, of 1 s: as long again would be 5 s more, 4 s longer than anew.
    assert bench.running[1].task.id == "t0"
    patient = slow_bench(replace(QUICK, least_gain_s=300.0))
    assert patient.running[1].task.id != "t0"
    bench = bench_of(6, 2)
    bench.fail(FailureKind.TASK, 0)
    failed = bench.running[1].task.id
    assert failed == "t1"
    while bench.scheduler.progress().num_done < 4:
        slot = 1 if bench.running[0].task.id == "t0" else 0
        bench.finish(slot, after_s=1.0)
    assert bench.scheduler.outcome().losses.num_second_attempts == 0


def test_a_task_of_another_pool_or_one_while_others_wait_is_left_alone() -> None:
    tasks = [make_task(f"a{n}", 10) for n in range(5)] + [make_task("b0", 40, "b")]
    bench = Bench(tasks, (A, B), num_slots=2, policy=QUICK)
    bench.step()
    bench.ready(0, 1)
    slot_b = next(slot for slot, run in bench.running.items() if run.task.pool == "b")
    for _ in range(5):
        bench.finish(1 - slot_b, after_s=50.0)
    assert bench.scheduler.progress().num_in_flight == 1


def test_a_fast_replica_takes_over_from_a_slow_one_without_waiting_for_it_to_be_late() -> None:
    """Devices differ: what the slow one has just begun, the fast one is done with sooner."""
    bench = bench_of(8, 2)
    bench.finish(0, after_s=100.0)
    slow = bench.running[0].task.id
    while bench.running[1].task.id != slow:
        bench.finish(1, after_s=5.0)
    assert bench.now < 150.0


@pytest.mark.parametrize("first_to_fail", [0, 1])
def test_one_of_two_attempts_may_fail_without_the_task_being_tried_a_third_time(
    first_to_fail: int,
) -> None:
    bench = slow_bench()
    assert bench.lose(slot=first_to_fail) == []
    assert bench.scheduler.progress().num_in_flight == 1
    assert bench.step(QUICK.max_backoff_s) == [], "the other attempt is under way"
    bench.finish(1 - first_to_fail)
    outcome = bench.scheduler.outcome()
    assert outcome.complete
    assert outcome.losses.lost_s == (50.0 if first_to_fail == 0 else 0.0)


def test_a_task_both_of_whose_attempts_fail_is_tried_again_with_both_counted() -> None:
    bench = slow_bench()
    for slot in (0, 1):
        bench.lose(slot=slot)
    record = bench.scheduler._book.records["t0"]
    assert (record.num_strikes, record.num_in_flight) == (2, 0)
    assert not bench.scheduler.finished
    bench.step(QUICK.max_backoff_s)
    assert started(bench.ready(0)) == [(0, "t0")]
    bench.lose(slot=0)
    (aside,) = bench.scheduler.outcome().set_aside
    assert len(aside.failures) == QUICK.max_strikes


def test_a_task_is_not_set_aside_while_another_attempt_may_bring_its_result() -> None:
    bench = slow_bench(replace(QUICK, max_strikes=1))
    bench.lose(slot=0)
    assert not bench.scheduler.outcome().set_aside
    bench.finish(1)
    assert bench.scheduler.outcome().complete


def test_what_fails_after_the_other_attempt_was_done_counts_for_nothing() -> None:
    bench = slow_bench()
    bench.scheduler.add([make_task("later", 1)])
    bench.finish(1)
    bench.fail(FailureKind.TASK, 0)
    record = bench.scheduler._book.records["t0"]
    assert (record.num_task_failures, record.failures) == (0, [])
    assert bench.scheduler.outcome().losses.second_attempts_s == 51.0
    assert bench.scheduler.outcome().stop is None


def test_the_storage_failure_of_one_of_two_attempts_delays_nothing() -> None:
    bench = slow_bench()
    bench.fail(FailureKind.STORAGE, 0)
    assert bench.scheduler._book.records["t0"].num_in_flight == 1
    bench.finish(1)
    assert bench.scheduler.outcome().complete


# -- deadlines, losses --------------------------------------------------------------------------


def test_a_replica_that_has_finished_nothing_gets_the_first_patience() -> None:
    """Its device may be slower than all that were timed before."""
    policy = replace(QUICK, first_deadline_s=100.0, min_deadline_s=10.0)
    bench = bench_of(9, 2, policy)
    for _ in range(3):
        bench.finish(1, after_s=1.0)
    bench.lose(FailureKind.PREEMPTED, slot=0)
    assert bench.step(policy.max_backoff_s) == [StartReplica(0, A)]
    bench.ready(0)
    begun = bench.now
    while bench.now < begun + 90.0:
        bench.finish(1, after_s=9.0) if bench.scheduler.progress().num_done < 8 else bench.step(9.0)
        assert bench.scheduler.outcome().losses.num_lost_replicas == 1


def test_losses_are_attempts_without_a_result_and_waits_for_the_next_replica() -> None:
    bench = bench_of(1, 1)
    bench.step(30.0)
    bench.lose()
    waited = 0.0
    while not bench.step(0.25):
        waited += 0.25
    bench.now += 7.0
    bench.ready(0)
    assert bench.scheduler.outcome().losses.num_done_again == 1
    bench.finish(0)
    losses = bench.scheduler.outcome().losses
    assert losses.lost_s == pytest.approx(30.0 + waited + 7.0, abs=0.5)
    assert losses.num_attempts == 2
    assert str(losses).startswith("1 task done again, 3")
    assert losses.as_record()["lost_s"] == round(losses.lost_s, 1)


def test_an_undisturbed_run_has_lost_nothing() -> None:
    bench = bench_of(3, 1)
    for _ in range(3):
        bench.finish(0)
    losses = bench.scheduler.outcome().losses
    assert str(losses) == ""
    assert (losses.num_attempts, losses.lost_s) == (3, 0.0)


def test_what_is_dropped_at_a_stop_is_lost() -> None:
    bench = bench_of(3, 2)
    bench.step(10.0)
    bench.scheduler.stop(fault(FailureKind.RUN, "enough"))
    assert bench.scheduler.outcome().losses.lost_s == pytest.approx(20.0)
