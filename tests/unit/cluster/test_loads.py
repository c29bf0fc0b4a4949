"""Tasks go where their model is: how often a model is loaded in a run of several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cluster.backends.in_process import InProcessBackend
from cluster.driver import execute
from cluster.scheduler import Scheduler
from cluster.storage import StorageSpec
from cluster.tasks import Pool, Task, WorkerFactory
from tests.support.workers import Script


@pytest.mark.parametrize(
    ("num_slots", "num_loads"),
    [
        (1, {"a": 1, "b": 1, "c": 1}),  # one after the other: two moves
        (3, {"a": 1, "b": 1, "c": 1}),  # side by side: none
        (6, {"a": 2, "b": 2, "c": 2}),
    ],
)
def test_a_model_is_loaded_once_for_each_slot_that_gets_it(
    tmp_path: Path, num_slots: int, num_loads: dict[str, int]
) -> None:
    log = tmp_path / "log"
    pools = [
        Pool(
            name,
            WorkerFactory("tests.support.workers:ScriptedWorker", {"name": name, "log": str(log)}),
        )
        for name in num_loads
    ]
    tasks = [
        Task(f"{name}-{n}", name, 1.0, {"rows": f"rows/{name}/{n}.parquet"}, Script(n))
        for n in range(8)
        for name in num_loads
    ]
    scheduler = Scheduler(pools, num_slots)
    scheduler.add(tasks)
    with InProcessBackend(StorageSpec(str(tmp_path / "out"))) as backend:
        assert execute(backend, scheduler, poll_s=0.0).complete
    lines = [line.split() for line in log.read_text().splitlines()]
    assert Counter(name for what, name, _ in lines if what == "load") == num_loads
    assert Counter(name for what, name, _ in lines if what == "run") == dict.fromkeys("abc", 8)
