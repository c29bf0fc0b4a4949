"""The line in the log every minute, and that the dashboard asks for what is exported."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from importlib.resources import files

import pytest

from cluster.driver import execute
from cluster.metrics import Heartbeat, memory_bytes
from cluster.outcome import Progress
from cluster.scheduler import Scheduler
from cluster.tasks import Event, Receipt, Task
from tests.unit.cluster.test_driver import POOL, FakeBackend, make_tasks, ticking

BOARD = json.loads(
    (files("cluster") / "observability" / "grafana-dashboard.json").read_text(encoding="utf-8")
)


def progress(done: int, of: int = 10, ready: int = 2) -> Progress:
    return Progress(
        num_tasks=of,
        num_done=done,
        num_set_aside=1,
        num_in_flight=ready,
        num_ready_replicas=ready,
        total_cost=2.0 * of,
        done_cost=2.0 * done,
        left_cost=2.0 * (of - done),
        num_rows=100 * done,
        num_failures=3,
    )


def test_the_line_tells_how_far_how_fast_and_how_long_still() -> None:
    heartbeat = Heartbeat(0.0)
    heartbeat.look(progress(0, ready=0), 30.0)
    assert "time left unknown" in heartbeat.line(progress(0, ready=0), 30.0)
    heartbeat.look(progress(0), 50.0)
    heartbeat.look(progress(4), 70.0)
    line = heartbeat.line(progress(4), 70.0)
    assert line.startswith(
        "4/10 tasks done, 20 rows/s, 2 in flight, 2 replicas ready, 3 failures, 1 set aside, "
        "about 30 s left, driver "
    )
    assert memory_bytes() > 2**20


def test_rates_are_of_this_stage_alone() -> None:
    heartbeat = Heartbeat(0.0)
    heartbeat.look(progress(4), 100.0)
    heartbeat.look(progress(5), 110.0)
    assert heartbeat.rows_per_s == 10.0


class _Metrics:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.tasks: list[str] = []
        self.reports: list[Progress] = []

    def saw(self, event: Event) -> None:
        self.events.append(event)

    def finished(self, task: Task, receipt: Receipt) -> None:
        self.tasks.append(task.id)

    def report(self, progress: Progress, rows_per_s: float, memory_bytes: int) -> None:
        self.reports.append(progress)


def test_the_log_gets_a_line_a_minute_and_a_monitor_every_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    beats: list[int] = []
    metrics = _Metrics()
    scheduler = Scheduler([POOL], 1)
    scheduler.add(make_tasks(*(f"t{n}" for n in range(30))))
    with caplog.at_level(logging.INFO, logger="cluster.driver"):
        execute(
            FakeBackend(),
            scheduler,
            on_heartbeat=lambda: beats.append(len(metrics.tasks)),
            metrics=metrics,
            clock=ticking(5.0),
        )
    lines = [r.getMessage() for r in caplog.records if "tasks done, " in r.getMessage()]
    # Two looks at the clock a turn: 30 tasks take about 310 s.
    assert len(lines) == len(beats) == 5
    assert metrics.tasks == [f"t{n}" for n in range(30)]
    assert len(metrics.events) == 31
    assert metrics.reports[-1].num_done == 30


def expressions() -> Iterator[str]:
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def test_the_dashboard_asks_for_nothing_that_is_not_exported() -> None:
    from cluster.backends.ray_metrics import exported_names

    names = {name for text in expressions() for name in re.findall(r"\b[a-z_]*steersweep\w*", text)}
    assert names
    assert names <= exported_names()
    # And leaves out nothing that is, but for what a histogram has beside its buckets.
    assert exported_names() - names == {
        "ray_steersweep_task_seconds_count",
        "ray_steersweep_task_seconds_sum",
    }


def test_panels_of_the_dashboard_do_not_overlap_and_choose_by_run() -> None:
    places = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        places.add((at["x"], at["y"]))
    assert len(places) == len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert all('run=~"$run"' in text for text in expressions() if "label_values" not in text)
