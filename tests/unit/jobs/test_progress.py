"""Progress in words, by a clock that the test moves."""

from __future__ import annotations

import pytest

from jobs.console import REPLICA_IS_READY, configure
from jobs.sweeps import progress
from jobs.sweeps.progress import RunProgress
from jobs.sweeps.steps import Count, Stage

SCORING = Stage("scoring", "rows")
WRITING = Stage("writing", "contrast answers", "written")
JUDGING = Stage("judging", "answers", "judged")


class Clock:
    """Stands in for ``time`` of the module."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Done:
    """Stands in for the steps of a sweep: items of each stage, as the test says."""

    def __init__(self, done_before: int = 0, stage: Stage = SCORING) -> None:
        self.counts: dict[tuple[Stage, str], Count] = {}
        self.stage = stage
        self.advance(done_before)
        self.counts[stage, "group"].done_before = done_before

    def know(self, number: int, stage: Stage) -> None:
        self.counts.setdefault((stage, "group"), Count()).known += number

    def advance(self, number: int, stage: Stage | None = None) -> None:
        count = self.counts.setdefault((stage or self.stage, "group"), Count())
        count.known = max(count.known, count.done + number)
        count.done += number


def progress_of(total: int, done_before: int = 0) -> tuple[RunProgress, Done]:
    done = Done(done_before)
    return RunProgress({SCORING: total}, done), done  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_progress_says_how_much_how_fast_and_how_long_still(clock: Clock) -> None:
    shown, done = progress_of(2520)
    shown.describe("loading models")
    assert shown.line() == "loading models"
    clock.now += 500
    shown.begin()
    assert shown.line() == "scoring 0 of 2,520 rows (0 %)"
    done.advance(8)
    clock.now += 32
    shown.moved()
    line = "scoring 8 of 2,520 rows (0.3 %), 0.25 rows/s, about 2 h 47 min left"
    assert shown.line() == line
    done.advance(2512)
    clock.now += 1168
    shown.moved()
    clock.now += 50  # the report takes its time, which is not the rows'
    assert shown.last_lines() == ["2,520 rows in 20 min (2.1 rows/s)"]


def test_rows_of_earlier_sessions_are_done_and_do_not_count_for_the_rate(clock: Clock) -> None:
    shown, done = progress_of(100, 60)
    shown.describe("loading models")
    assert shown.line() == "loading models; 60 of 100 rows (60.0 %) done"
    shown.begin()
    done.advance(20)
    clock.now += 10
    shown.moved()
    assert shown.line() == "scoring 80 of 100 rows (80.0 %), 2 rows/s, about 10 s left"
    assert shown.last_lines() == ["20 rows in 10 s (2 rows/s)"]


def test_stages_that_overlap_share_a_line_and_the_slowest_one_decides_the_time(
    clock: Clock,
) -> None:
    done = Done(stage=WRITING)
    totals = {WRITING: 100, JUDGING: 100}
    shown = RunProgress(totals, done)  # type: ignore[arg-type]
    shown.begin()
    clock.now += 10
    done.advance(40)
    done.know(40, JUDGING)
    shown.moved()
    done.advance(10, JUDGING)
    clock.now += 10
    shown.moved()
    line = shown.line()
    assert line.startswith("writing 40 of 100 contrast answers (40.0 %), 10 judged, 2 ")
    # At 2 per second, 60 answers are written in 30 s; at 1 per second, 90 are judged in 90 s.
    assert line.endswith("about 1 min 30 s left"), line
    done.advance(60)
    shown.moved()
    assert shown.line().startswith("judging 10 of 100 answers (10.0 %)")


def test_a_log_gets_a_line_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, done = progress_of(100)
    with shown.shown():
        shown.begin()
        for _ in range(7):
            clock.now += 10
            done.advance(5)
            shown.moved()
    out = capsys.readouterr().out.splitlines()
    assert out[0] == REPLICA_IS_READY
    assert out[1:] == ["scoring 20 of 100 rows (20.0 %), 0.5 rows/s, about 2 min 40 s left"]


def test_a_quiet_run_has_no_progress(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    configure(quiet=True)
    try:
        shown, done = progress_of(100)
        with shown.shown():
            shown.begin()
            clock.now += 100
            done.advance(5)
            shown.moved()
    finally:
        configure()
    assert capsys.readouterr().out == ""


def test_a_line_that_is_wider_than_the_terminal_leaves_out_the_share(clock: Clock) -> None:
    done = Done(stage=WRITING)
    shown = RunProgress({WRITING: 98_560}, done)  # type: ignore[arg-type]
    shown.begin()
    done.advance(1200)
    clock.now += 1000
    shown.moved()
    narrow = (
        "writing 1,200 of 98,560 contrast answers, 1.2 contrast answers/s, about 22 h 32 min left"
    )
    assert len(shown.line()) > len(narrow)
    assert shown.line(len(narrow)) == narrow
    assert shown.line(200) == shown.line()
