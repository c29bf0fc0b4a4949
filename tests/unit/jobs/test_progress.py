"""Progress in words, by a clock that the test moves."""

from __future__ import annotations

import pytest

from jobs import progress
from jobs.console import REPLICA_IS_READY, configure
from jobs.progress import RunProgress


class Clock:
    """Stands in for ``time`` of the module."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_progress_says_how_much_how_fast_and_how_long_still(clock: Clock) -> None:
    shown = RunProgress(2520)
    shown.describe("loading models")
    assert shown.line() == "loading models"
    clock.now += 500
    shown.begin()
    assert shown.line() == "scoring 0 of 2,520 rows (0 %)"
    shown.advance(8)
    clock.now += 32
    line = "scoring 8 of 2,520 rows (0.3 %), 0.25 rows/s, about 2 h 47 min left"
    assert shown.line() == line
    shown.advance(2512)
    clock.now += 1168
    assert shown.last_line() == "2,520 rows in 20 min (2.1 rows/s)"


def test_rows_of_earlier_sessions_are_done_and_do_not_count_for_the_rate(clock: Clock) -> None:
    shown = RunProgress(100, 60)
    shown.describe("loading models")
    assert shown.line() == "loading models; 60 of 100 rows (60.0 %) done"
    shown.begin()
    shown.advance(20)
    clock.now += 10
    assert shown.line() == "scoring 80 of 100 rows (80.0 %), 2 rows/s, about 10 s left"
    assert shown.last_line() == "20 rows in 10 s (2 rows/s)"


def test_a_log_gets_a_line_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = RunProgress(100)
    with shown.shown():
        shown.begin()
        for _ in range(7):
            clock.now += 10
            shown.advance(5)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == REPLICA_IS_READY
    assert out[1:] == ["scoring 20 of 100 rows (20.0 %), 0.5 rows/s, about 2 min 40 s left"]


def test_a_quiet_run_has_no_progress(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    configure(quiet=True)
    try:
        shown = RunProgress(100)
        with shown.shown():
            shown.begin()
            clock.now += 100
            shown.advance(5)
    finally:
        configure()
    assert capsys.readouterr().out == ""


def test_a_line_that_is_wider_than_the_terminal_leaves_out_the_share(clock: Clock) -> None:
    shown = RunProgress(98_560, verb="writing", noun="contrast answers", unit="answers")
    shown.begin()
    shown.advance(1200)
    clock.now += 1000
    assert len(shown.line()) > 79
    narrow = "writing 1,200 of 98,560 contrast answers, 1.2 answers/s, about 22 h 32 min left"
    assert shown.line(79) == narrow
    assert shown.line(200) == shown.line()
