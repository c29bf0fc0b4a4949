"""A run on nodes that join, drain, leave, and a replica that is killed: the rows do not notice."""

from __future__ import annotations

import math
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from cluster.backends.in_process import InProcessBackend
from cluster.driver import execute
from cluster.outcome import Outcome
from cluster.parts import read_part
from cluster.policy import Policy
from cluster.scheduler import Scheduler
from cluster.storage import StorageSpec
from cluster.table_digest import table_digest
from cluster.tasks import (
    Event,
    Pool,
    Receipt,
    ReplicaDraining,
    ReplicaLost,
    ReplicaReady,
    RoomChanged,
    Task,
    TaskFinished,
    WorkerFactory,
)
from tests.chaos.machines import RayMachines
from tests.support.workers import Script

REPOSITORY = Path(__file__).parents[2]
MOST_TASKS = 500
# No second attempts: a slow machine would make some, and what is done again is counted.
POLICY = Policy(backoff_s=0.1, max_backoff_s=0.5, slow_factor=math.inf)
POOL = Pool("a", WorkerFactory("tests.support.workers:ScriptedWorker"))


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayMachines]:
    """A head without CPUs and two nodes with one each; this process is connected to the head."""
    import ray

    folder = tempfile.mkdtemp(prefix="el")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    made = RayMachines("two nodes")
    try:
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


class Show:
    """Waits for one event after the other, breaks something after each; adds tasks meanwhile."""

    def __init__(self, acts: list[tuple[Callable[[Event], bool], Callable[[], None]]]) -> None:
        self.acts = acts
        self.tasks: list[Task] = []
        self.pids: dict[int, int] = {}
        "Of the replica that each slot holds."

    def task(self) -> Task:
        value = len(self.tasks)
        script = Script(value, "sleep", seconds=0.3)
        self.tasks.append(Task(f"t{value:03}", "a", 1.0, {"rows": f"rows/{value}.parquet"}, script))
        return self.tasks[-1]

    def more(self, _task: Task, _receipt: Receipt) -> Iterable[Task]:
        return [self.task()] if self.acts and len(self.tasks) < MOST_TASKS else []

    def watch(self, event: Event) -> None:
        if isinstance(event, ReplicaReady):
            self.pids[event.slot] = int(event.facts["pid"])
        if isinstance(event, ReplicaLost):
            self.pids.pop(event.slot, None)
        if self.acts and self.acts[0][0](event):
            self.acts.pop(0)[1]()


def rows_of(spec: StorageSpec, tasks: Iterable[Task]) -> dict[str, str]:
    storage = spec.open()
    return {
        task.id: table_digest(read_part(storage, task.parts["rows"], task.id)) for task in tasks
    }


@pytest.mark.ray
def test_a_replica_killed_and_nodes_added_drained_and_removed_leave_the_same_rows(
    machines: RayMachines, tmp_path: Path
) -> None:
    import ray

    from cluster.backends.ray_backend import RayBackend
    from cluster.placement import Share, num_fitting

    first, second = [n["NodeID"] for n in ray.nodes() if n["Resources"].get("CPU") and n["Alive"]]
    adding = threading.Thread(target=machines.add_node)
    seen: list[Event] = []

    def kill_a_replica() -> None:
        os.kill(show.pids[max(show.pids)], signal.SIGKILL)

    def remove(node_id: str) -> Callable[[], None]:
        return lambda: machines.remove_node_of(node_id)

    is_finished = lambda event: isinstance(event, TaskFinished) and len(show.pids) > 1  # noqa: E731
    show = Show(
        [
            (is_finished, kill_a_replica),
            (is_finished, adding.start),
            (
                lambda e: isinstance(e, ReplicaReady) and len(show.pids) == 3,
                lambda: machines.drain_node_of(first, 60),
            ),
            (lambda e: e == RoomChanged(2), lambda: None),
            (is_finished, remove(second)),
            (lambda e: e == RoomChanged(1), lambda: None),
        ]
    )

    def watch(event: Event) -> None:
        seen.append(event)
        show.watch(event)

    # Room for one at first: the second node is found while the run goes on.
    scheduler = Scheduler([POOL], 1, POLICY)
    scheduler.add([show.task() for _ in range(6)])
    spec = StorageSpec(str(tmp_path / "out"))
    with RayBackend(
        spec, room_of=lambda nodes: sum(num_fitting(node, Share()) for node in nodes)
    ) as backend:
        outcome = execute(backend, scheduler, on_event=watch, on_finished=show.more, poll_s=0.05)
    adding.join()
    assert outcome.complete, outcome
    assert not show.acts, f"{len(show.acts)} acts were not reached"
    assert [type(e) for e in seen if isinstance(e, ReplicaDraining)] == [ReplicaDraining]
    losses = outcome.losses
    # A replica and a node were lost, each with the task under way, if there was one.
    assert losses.num_lost_replicas == 2
    assert losses.num_drained == 1
    assert 1 <= losses.num_done_again <= 2
    assert losses.num_attempts == len(outcome.done) + losses.num_done_again
    assert losses.lost_s > 0
    calm = StorageSpec(str(tmp_path / "calm"))
    assert undisturbed(calm, show.tasks).complete
    assert rows_of(spec, show.tasks) == rows_of(calm, show.tasks)


def undisturbed(spec: StorageSpec, tasks: Iterable[Task]) -> Outcome:
    scheduler = Scheduler([POOL], 1, POLICY)
    scheduler.add(Task(t.id, t.pool, t.cost, t.parts, Script(t.payload.value)) for t in tasks)
    with InProcessBackend(spec) as backend:
        return execute(backend, scheduler)
