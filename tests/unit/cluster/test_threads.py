"""A pool of threads does not hold up whoever leaves it."""

from __future__ import annotations

import threading
import time

import pytest

from cluster.threads import thread_pool


def test_all_results_come_in_order() -> None:
    with thread_pool(4) as pool:
        assert list(pool.map(str, range(100))) == [str(n) for n in range(100)]


def test_an_interrupt_waits_for_nothing_and_drops_what_has_not_begun() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        go_on.wait(30)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), thread_pool(2) as pool:
        pool.map(work, range(50))
        raise KeyboardInterrupt
    assert time.monotonic() - start < 10
    go_on.set()
    time.sleep(0.2)
    assert len(begun) <= 2
