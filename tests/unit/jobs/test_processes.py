"""Calls made by several processes: results in order, errors, and a process that is lost."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from jobs.processes.in_order import here, in_order, processes

pytestmark = pytest.mark.slow


def children() -> set[int]:
    of_this = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(child) for child in of_this.split()}


def slow_at_first(number: int) -> tuple[int, int]:
    time.sleep(0.5 if number == 0 else 0.0)
    return number, os.getpid()


def failing(number: int) -> int:
    if number == 2:
        raise ValueError(f"no {number}")
    return number


def dying(parent: int, number: int) -> int:
    if number == 1 and os.getpid() != parent:
        os._exit(9)
    return number


def marking(folder: str, number: int) -> int:
    Path(folder, str(number)).touch()
    return number


def test_results_come_in_order_from_several_processes() -> None:
    before = children()
    with processes(2, "counting") as begin:
        made = list(in_order((partial(slow_at_first, n) for n in range(6)), begin, ahead=3))
    assert [number for number, _ in made] == list(range(6))
    assert len({pid for _, pid in made} - {os.getpid()}) == 2
    assert children() == before


def test_an_error_is_raised_in_its_turn_and_ends_the_processes() -> None:
    before = children()
    found = []
    with pytest.raises(ValueError, match="no 2") as raised, processes(2, "counting") as begin:
        found.extend(in_order((partial(failing, n) for n in range(4)), begin, ahead=3))
    assert "raised while counting" in raised.value.__notes__[0]
    assert children() == before


def test_the_call_of_a_process_that_ended_is_made_here(capsys: pytest.CaptureFixture[str]) -> None:
    before = children()
    with processes(2, "counting") as begin:
        calls = (partial(dying, os.getpid(), n) for n in range(8))
        assert list(in_order(calls, begin, ahead=3)) == list(range(8))
    message = " ".join(capsys.readouterr().err.split())
    assert "the process that was counting ended with 9; its work was done by this" in message
    assert children() == before


def test_no_more_calls_are_begun_than_are_wanted_soon(tmp_path: Path) -> None:
    begun = []

    def begin(call: partial[int]) -> partial[int]:
        begun.append(call)
        return call

    results = in_order((partial(marking, str(tmp_path), n) for n in range(9)), begin, 2)
    assert next(results) == 0
    assert len(begun) == 3
    assert list(results) == list(range(1, 9))


def test_alone_a_call_is_made_when_it_is_wanted(tmp_path: Path) -> None:
    with here() as begin:
        results = in_order((partial(marking, str(tmp_path), n) for n in range(3)), begin, 0)
        assert next(results) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["0"]
        assert list(results) == [1, 2]
