"""Threads of the driver: order, errors, and how they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cluster.side_work import SideWork, Work
from cluster.tasks import Task

PATIENCE_S = 10.0


@pytest.fixture
def side() -> Iterator[SideWork]:
    made = SideWork()
    yield made
    made.close()


def make_task(name: str) -> Task:
    return Task(name, "a", 1.0, {"rows": name}, None)


def returning(*names: str) -> Work:
    return lambda: [make_task(name) for name in names]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.001)


def poll_all(side: SideWork) -> list[str]:
    """The ids of all tasks that come until nothing is under way."""
    names: list[str] = []

    def is_over() -> bool:
        names.extend(task.id for task in side.poll())
        return not side.is_busy

    until(is_over)
    return names


def test_work_of_a_lane_runs_in_the_order_in_which_it_was_submitted(side: SideWork) -> None:
    at_once = threading.Semaphore(1)

    def alone(number: int) -> list[Task]:
        assert at_once.acquire(blocking=False), "two of one lane at the same time"
        time.sleep(0.001)
        at_once.release()
        return [make_task(str(number))]

    for number in range(20):
        side.submit("lane", lambda number=number: alone(number))  # type: ignore[misc]
    assert poll_all(side) == [str(number) for number in range(20)]


def test_lanes_run_side_by_side(side: SideWork) -> None:
    met = threading.Barrier(2, timeout=PATIENCE_S)

    def meets() -> list[Task]:
        met.wait()  # breaks unless another thread comes
        return []

    side.submit("one", meets)
    side.submit("other", meets)
    assert poll_all(side) == []


def test_it_is_busy_until_what_has_ended_is_polled(side: SideWork) -> None:
    assert not side.is_busy
    has_run = threading.Event()

    def work() -> list[Task]:
        has_run.set()
        return [make_task("t")]

    side.submit("lane", work)
    assert has_run.wait(PATIENCE_S)
    time.sleep(0.01)
    assert side.is_busy, "its task has not been handed on"
    assert poll_all(side) == ["t"]
    assert side.poll() == []


def test_work_submits_work_and_stays_busy_in_between(side: SideWork) -> None:
    def first() -> list[Task]:
        side.submit("other", returning("second"))
        return [make_task("first")]

    side.submit("lane", first)
    assert sorted(poll_all(side)) == ["first", "second"]


def test_an_error_comes_up_in_poll_also_from_a_generator_and_the_lane_goes_on(
    side: SideWork,
) -> None:
    def fails_half_way() -> Iterator[Task]:
        yield make_task("lost")
        raise LookupError("no such part")

    side.submit("lane", fails_half_way)
    side.submit("lane", returning("after"))
    with pytest.raises(LookupError, match="no such part"):
        poll_all(side)
    assert poll_all(side) == ["after"]


def test_even_what_is_no_exception_comes_up_in_poll(side: SideWork) -> None:
    """It would end the thread, and everybody would wait for its lane forever."""

    def ends() -> list[Task]:
        raise SystemExit(3)

    side.submit("lane", ends)
    with pytest.raises(SystemExit):
        poll_all(side)
    side.submit("lane", returning("after"))
    assert poll_all(side) == ["after"]


def test_close_waits_for_what_is_under_way_and_drops_what_has_not_begun(side: SideWork) -> None:
    began, may_end = threading.Event(), threading.Event()
    ran: list[str] = []

    def under_way() -> list[Task]:
        began.set()
        may_end.wait(PATIENCE_S)
        ran.append("under way")
        return []

    def waiting() -> list[Task]:
        ran.append("waiting")
        return []

    side.submit("lane", under_way)
    side.submit("lane", waiting)
    assert began.wait(PATIENCE_S)
    threading.Timer(0.05, may_end.set).start()
    assert side.close(PATIENCE_S)
    assert ran == ["under way"]


def test_close_gives_up_after_its_patience_however_many_lanes_hang(side: SideWork) -> None:
    may_end = threading.Event()

    def hangs() -> list[Task]:
        may_end.wait(PATIENCE_S)
        return []

    for number in range(8):
        side.submit(f"lane {number}", hangs)
    begun = time.monotonic()
    assert not side.close(0.1)
    assert time.monotonic() - begun < 0.5, "patience is for all lanes together"
    may_end.set()
    assert side.close(PATIENCE_S)


def test_nothing_runs_that_is_submitted_after_close(side: SideWork) -> None:
    side.submit("lane", returning())
    poll_all(side)
    side.close(PATIENCE_S)
    for lane in ("lane", "new lane"):
        side.submit(lane, returning("late"))
    assert not side.is_busy
    time.sleep(0.02)
    assert side.poll() == []
    assert side.close(PATIENCE_S)


def test_threads_end_with_close(side: SideWork) -> None:
    side.submit("the one lane", returning())
    poll_all(side)
    assert any(thread.name == "driver-the one lane" for thread in threading.enumerate())
    assert side.close(PATIENCE_S)
    assert not any(thread.name == "driver-the one lane" for thread in threading.enumerate())
