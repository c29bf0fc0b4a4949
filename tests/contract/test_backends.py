"""One suite over the backends, and what only real processes can show."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cluster.backends.base import Backend
from cluster.backends.in_process import InProcessBackend
from cluster.driver import execute
from cluster.outcome import Outcome
from cluster.parts import read_part
from cluster.placement import Share
from cluster.policy import Policy
from cluster.scheduler import Scheduler
from cluster.storage import StorageSpec
from cluster.tasks import (
    Event,
    FailureKind,
    Pool,
    Receipt,
    ReplicaLost,
    ReplicaPlaced,
    ReplicaReady,
    Task,
    TaskFailed,
    TaskFinished,
    WorkerFactory,
)
from steersweep.errors import UserError
from tests.support.workers import ArrivesBroken, Script

REPOSITORY = Path(__file__).parents[2]
POLICY = Policy(backoff_s=0.1, max_backoff_s=0.5)
SOON_S = 60.0
"Long enough for a slow machine, and short beside what is waited for by mistake."

MakeBackend = Callable[[], Backend]


@pytest.fixture
def storage_spec(tmp_path: Path) -> StorageSpec:
    return StorageSpec(str(tmp_path / "out"))


@pytest.fixture
def ray_backend(ray_cluster: None, storage_spec: StorageSpec) -> Iterator[Backend]:
    from cluster.backends.ray_backend import RayBackend

    with RayBackend(storage_spec) as backend:
        yield backend


@pytest.fixture(params=["in_process", pytest.param("ray", marks=pytest.mark.ray)])
def backend(request: pytest.FixtureRequest, storage_spec: StorageSpec) -> Iterator[Backend]:
    if request.param == "ray":
        yield request.getfixturevalue("ray_backend")
        return
    with InProcessBackend(storage_spec) as in_process:
        yield in_process


def pool_of(name: str = "a", cpus: float = 1.0, **kwargs: str) -> Pool:
    factory = WorkerFactory("tests.support.workers:ScriptedWorker", {"name": name, **kwargs})
    return Pool(name, factory, Share(cpus))


def task_of(value: int, do: str = "return", pool: str = "a", **script: object) -> Task:
    payload = Script(value, do, **script)  # type: ignore[arg-type]
    parts = {name: f"{name}/{value}.parquet" for name in payload.tables}
    return Task(f"task-{value}", pool, 1.0, parts, payload)


def run(
    backend: Backend,
    tasks: Iterable[Task],
    pools: tuple[Pool, ...] = (pool_of(),),
    num_slots: int = 1,
    policy: Policy = POLICY,
    **options: object,
) -> Outcome:
    scheduler = Scheduler(pools, num_slots, policy)
    scheduler.add(tasks)
    return execute(backend, scheduler, poll_s=0.05, **options)  # type: ignore[arg-type]


def stored(spec: StorageSpec, task: Task) -> list[dict[str, int]]:
    storage = spec.open()
    parts = [read_part(storage, key, task.id) for key in task.parts.values()]
    return [row for part in parts for row in part.to_pylist()]


def wait_for_event(backend: Backend, within_s: float = SOON_S) -> Event:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        for event in backend.poll(0.05):
            if not isinstance(event, ReplicaPlaced):  # only where there was something to wait for
                return event
    raise AssertionError(f"no event within {within_s} s")


# -- what every backend does --------------------------------------------------------------------


def test_every_task_leaves_its_rows(backend: Backend, storage_spec: StorageSpec) -> None:
    tasks = [task_of(i, tables=("sums", "rows")) for i in range(5)]
    # On a busy machine a call may take so long that a second attempt is worth it; not here, where
    # the first one has to do.
    patient = replace(POLICY, slow_factor=math.inf)
    outcome = run(backend, tasks, num_slots=2, policy=patient)
    assert outcome.complete
    for i, task in enumerate(tasks):
        assert stored(storage_spec, task) == [{"value": i, "square": i * i}] * 2
        receipt = outcome.done[task.id]
        assert (receipt.num_rows, set(receipt.digests)) == (2, {"sums", "rows"})
        assert receipt.attempt.startswith(f"{task.id[:12]}-1-")


def test_the_last_part_is_committed_last(backend: Backend, tmp_path: Path) -> None:
    task = task_of(1, tables=("z", "m", "a"))
    in_the_way = tmp_path / "out" / "m" / "1.parquet"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_bytes(b"not a part")
    outcome = run(backend, [task])
    assert [aside.task.id for aside in outcome.set_aside] == ["task-1"]
    assert (tmp_path / "out/z/1.parquet").exists()
    assert not (tmp_path / "out/a/1.parquet").exists()


def test_a_failing_task_does_not_stop_the_others(
    backend: Backend, storage_spec: StorageSpec
) -> None:
    bad = [task_of(0, "raise"), task_of(1, "raise_unpicklable")]
    good = [task_of(i) for i in range(2, 6)]
    outcome = run(backend, bad + good, num_slots=2)
    assert sorted(outcome.done) == sorted(task.id for task in good)
    assert all(stored(storage_spec, task) for task in good)
    assert [aside.reason for aside in outcome.set_aside] == [
        "2 attempts failed; the last error: ValueError: bad value 0",
        "2 attempts failed; the last error: UnpicklableError: odd 1",
    ]
    assert "_misbehave" in outcome.set_aside[0].failures[0].details
    assert outcome.stop is None


def test_a_task_that_fails_once_is_done_the_second_time(backend: Backend, tmp_path: Path) -> None:
    task = task_of(1, "raise", marker=str(tmp_path / "tried"))
    outcome = run(backend, [task])
    assert outcome.complete
    assert outcome.done[task.id].attempt.startswith("task-1-2-")


def test_tables_that_the_task_does_not_name_set_it_aside(backend: Backend) -> None:
    task = Task("task-1", "a", 1.0, {"other": "other/1.parquet"}, Script(1))
    outcome = run(backend, [task])
    assert "must return the tables ['other'], got ['rows']" in outcome.set_aside[0].reason


@pytest.mark.parametrize(
    ("load", "message", "user_must_act"),
    [
        ("raise", "RuntimeError: no such model", False),
        ("user", "revision 'x' does not exist; choose another", True),
    ],
)
def test_a_worker_that_cannot_load_stops_the_run_at_once(
    backend: Backend, load: str, message: str, user_must_act: bool
) -> None:
    start = time.monotonic()
    outcome = run(backend, [task_of(1)], (pool_of(load=load),))
    assert time.monotonic() - start < SOON_S
    assert outcome.stop is not None
    assert (outcome.stop.kind, outcome.stop.message) == (FailureKind.RUN, message)
    assert outcome.stop.user_must_act is user_must_act
    assert outcome.unfinished == ("task-1",)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.at_all:Worker", "ModuleNotFoundError: No module named 'nowhere'"),
        ("tests.support.workers:Nobody", "AttributeError: module 'tests.support.workers'"),
    ],
)
def test_a_worker_that_does_not_exist_stops_the_run(
    backend: Backend, target: str, message: str
) -> None:
    outcome = run(backend, [task_of(1)], (Pool("a", WorkerFactory(target)),))
    assert outcome.stop is not None
    assert outcome.stop.message.startswith(message)


@pytest.mark.parametrize(
    ("do", "message", "user_must_act"),
    [
        ("storage_unavailable", "bucket b does not exist", True),
        ("missing_module", "ModuleNotFoundError: No module named 'nowhere'", False),
    ],
)
def test_what_meets_every_task_alike_stops_the_run(
    backend: Backend, do: str, message: str, user_must_act: bool
) -> None:
    outcome = run(backend, [task_of(1, do), task_of(2)])
    assert outcome.stop is not None
    assert (outcome.stop.message, outcome.stop.user_must_act) == (message, user_must_act)
    assert not outcome.done


def test_follow_up_tasks_run_on_the_loaded_replica(
    backend: Backend, storage_spec: StorageSpec, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def follow_up(task: Task, receipt: Receipt) -> list[Task]:
        value = task.payload.value
        return [task_of(value + 10), task_of(value + 20)] if value < 10 else []

    pool = pool_of(log=str(log))
    outcome = run(backend, [task_of(1), task_of(2)], (pool,), on_finished=follow_up)
    assert sorted(outcome.done) == [f"task-{i}" for i in (1, 11, 12, 2, 21, 22)]
    assert stored(storage_spec, task_of(22)) == [{"value": 22, "square": 484}]
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["load"] + ["run"] * 6


def test_two_pools_share_one_slot(backend: Backend, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pools = tuple(pool_of(name, cpus=2.0, log=str(log)) for name in ("a", "b"))
    tasks = [task_of(1), task_of(2), task_of(3), task_of(4, pool="b"), task_of(5, pool="b")]
    outcome = run(backend, tasks, pools)
    assert outcome.complete
    lines = [" ".join(line.split()[:2]) for line in log.read_text().splitlines()]
    assert lines == ["load a"] + ["run a"] * 3 + ["load b"] + ["run b"] * 2


def test_a_requested_stop_ends_the_run_and_keeps_what_is_done(
    backend: Backend, storage_spec: StorageSpec
) -> None:
    done: list[str] = []

    def note(task: Task, receipt: Receipt) -> list[Task]:
        done.append(task.id)
        return []

    tasks = [task_of(i) for i in range(8)]
    outcome = run(backend, tasks, on_finished=note, stop_requested=lambda: len(done) >= 2)
    assert outcome.interrupted
    assert list(outcome.done) == ["task-0", "task-1"]
    assert stored(storage_spec, tasks[1])


def test_a_process_that_exits_is_replaced(backend: Backend, tmp_path: Path) -> None:
    events: list[Event] = []
    task = task_of(1, "system_exit", marker=str(tmp_path / "tried"))
    outcome = run(backend, [task], on_event=events.append)
    assert outcome.complete
    said = [type(event).__name__ for event in events if not isinstance(event, ReplicaPlaced)]
    assert said == [
        "ReplicaReady",
        "ReplicaLost",
        "ReplicaReady",
        "TaskFinished",
    ]


def test_nothing_is_set_aside_when_a_device_breaks(
    backend: Backend, storage_spec: StorageSpec, tmp_path: Path
) -> None:
    bad = task_of(0, "break_device", marker=str(tmp_path / "tried"))
    tasks = [bad, *(task_of(i) for i in range(1, 5))]
    outcome = run(backend, tasks)
    if isinstance(backend, InProcessBackend):
        # A replica that is started in this process would have the same broken device.
        assert outcome.stop is not None
        assert outcome.stop.user_must_act
        assert outcome.stop.message == (
            "the device stopped working: RuntimeError: CUDA error: an illegal memory access; only "
            "a new process can use the device again: run the same command again to continue"
        )
        backend = InProcessBackend(storage_spec)  # as in a new process
        outcome = run(backend, tasks)
    assert outcome.complete
    assert all(stored(storage_spec, task) for task in tasks)
    if not isinstance(backend, InProcessBackend):
        assert outcome.losses.num_lost_replicas == 1


def test_facts_of_the_worker_arrive(backend: Backend) -> None:
    backend.start(3, pool_of("b"))
    event = wait_for_event(backend)
    assert isinstance(event, ReplicaReady)
    assert (event.slot, event.facts["name"]) == (3, "b")


def test_nothing_is_heard_of_a_replica_after_stop(backend: Backend) -> None:
    backend.start(0, pool_of())
    assert isinstance(wait_for_event(backend), ReplicaReady)
    backend.submit(0, task_of(1), "task-1-1-x")
    backend.stop(0)
    backend.stop(0)
    for _ in range(10):
        assert backend.poll(0.05) == []
    backend.start(0, pool_of())
    assert isinstance(wait_for_event(backend), ReplicaReady)
    backend.submit(0, task_of(2), "task-2-1-x")
    finished = wait_for_event(backend)
    assert isinstance(finished, TaskFinished)
    assert finished.receipt.task_id == "task-2"


def test_poll_waits_no_longer_than_it_was_told(backend: Backend) -> None:
    start = time.monotonic()
    assert backend.poll(0.3) == []
    assert 0.25 < time.monotonic() - start < 3.0


# -- what only Ray can show ---------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.mark.ray
def test_a_replica_killed_in_a_task_is_replaced_and_the_task_done(
    ray_backend: Backend, storage_spec: StorageSpec, tmp_path: Path
) -> None:
    marker = tmp_path / "pid"

    def kill() -> None:
        if wait_until(lambda: marker.exists() and marker.read_text() != "", SOON_S):
            os.kill(int(marker.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    events: list[Event] = []
    task = task_of(7, "sleep", marker=str(marker), seconds=60.0)
    outcome = run(ray_backend, [task, task_of(8)], on_event=events.append)
    killer.join()
    assert outcome.complete
    assert stored(storage_spec, task) == [{"value": 7, "square": 49}]
    (lost,) = [event for event in events if isinstance(event, ReplicaLost)]
    assert lost.failure.kind is FailureKind.REPLICA
    assert marker.read_text() in lost.failure.message
    assert "\n" not in lost.failure.message
    assert len(lost.failure.message) < 300


@pytest.mark.ray
def test_a_frozen_replica_is_killed_at_its_deadline_and_its_cpus_are_free_again(
    ray_backend: Backend, tmp_path: Path
) -> None:
    marker = tmp_path / "pid"
    task = task_of(1, "freeze", marker=str(marker))
    # A deadline is the time from sending a task to hearing of its end, the writing of its part
    # included. It doubles with each lost replica: the frozen one is found after two seconds, and a
    # slow machine gets as long as it needs before the task is set aside.
    policy = Policy(backoff_s=0.1, first_deadline_s=2.0, min_deadline_s=2.0, max_strikes=7)
    # The pool takes every CPU: its replacement can only start where the frozen one is really gone.
    outcome = run(ray_backend, [task], (pool_of(cpus=2.0),), policy=policy)
    assert outcome.complete
    assert wait_until(lambda: not alive(int(marker.read_text())), SOON_S)


@pytest.mark.ray
def test_a_replica_that_dies_while_it_loads_stops_the_run_within_seconds(
    ray_backend: Backend,
) -> None:
    start = time.monotonic()
    outcome = run(ray_backend, [task_of(1), task_of(2)], (pool_of(load="exit"),), num_slots=2)
    assert time.monotonic() - start < SOON_S
    assert outcome.stop is not None
    # Three of one slot; the other one's may come in between.
    assert re.match(r"no replica of a became ready: [3-6] starts failed", outcome.stop.message)


@pytest.mark.ray
def test_a_payload_that_cannot_travel_is_the_failure_of_its_task(ray_backend: Backend) -> None:
    task = Task("task-1", "a", 1.0, {"rows": "rows/1.parquet"}, threading.Lock())
    outcome = run(ray_backend, [task, task_of(2)])
    assert list(outcome.done) == ["task-2"]
    assert "cannot pickle" in outcome.set_aside[0].reason


@pytest.mark.ray
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("cut short"), FailureKind.TASK),
        (ModuleNotFoundError("No module named 'nowhere'"), FailureKind.RUN),
    ],
)
def test_a_payload_that_arrives_broken_is_told_apart_from_a_missing_module(
    ray_backend: Backend, error: Exception, kind: FailureKind
) -> None:
    ray_backend.start(0, pool_of())
    assert isinstance(wait_for_event(ray_backend), ReplicaReady)
    task = Task("task-1", "a", 1.0, {"rows": "rows/1.parquet"}, ArrivesBroken(error))
    ray_backend.submit(0, task, "task-1-1-x")
    event = wait_for_event(ray_backend)
    assert isinstance(event, TaskFailed)
    assert event.failure.kind is kind
    assert event.failure.message == f"{type(error).__name__}: {error}"
    assert "Traceback" in event.failure.details or "raise_it" in event.failure.details


@pytest.mark.ray
def test_close_ends_the_processes(ray_backend: Backend) -> None:
    ray_backend.start(0, pool_of())
    event = wait_for_event(ray_backend)
    assert isinstance(event, ReplicaReady)
    pid = int(event.facts["pid"])
    assert alive(pid)
    ray_backend.close()
    assert wait_until(lambda: not alive(pid), SOON_S)


@pytest.mark.ray
def test_the_number_of_replicas_fits_the_cluster(ray_cluster: None) -> None:
    from cluster.backends.ray_nodes import resolve_num_replicas

    assert resolve_num_replicas(None, Share(1.0), num_tasks=9) == 2
    assert resolve_num_replicas(None, Share(0.1), num_tasks=99) == 20
    assert resolve_num_replicas(None, Share(1.0), num_tasks=1) == 1
    assert resolve_num_replicas(2, Share(1.0), num_tasks=9) == 2
    assert resolve_num_replicas(None, Share(1.0), num_tasks=0) == 1
    with pytest.raises(UserError, match=r"^3 replicas with .* room for 2;"):
        resolve_num_replicas(3, Share(1.0), num_tasks=9)
    with pytest.raises(UserError, match=r"asks for 1 GPU; .* has 0 "):
        resolve_num_replicas(None, Share(1.0, 1.0), num_tasks=9)


@pytest.mark.ray
def test_the_node_exports_the_numbers_of_a_run(
    ray_backend: Backend, storage_spec: StorageSpec
) -> None:
    import ray

    from cluster.backends.ray_metrics import RayMetrics

    tasks = [task_of(i) for i in range(5)] + [task_of(5, "raise")]
    # One slot: of two, the second replica may not be ready before the last task is done.
    outcome = run(ray_backend, tasks, metrics=RayMetrics("s3://bucket/numbers"))
    assert len(outcome.done) == 5
    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = {
        ("ray_steersweep_tasks_done_total", "a"): 5.0,
        ("ray_steersweep_rows_total", "a"): 5.0,
        ("ray_steersweep_failures_total", "task"): 2.0,
        ("ray_steersweep_task_seconds_count", "a"): 5.0,
        ("ray_steersweep_tasks_known", ""): 6.0,
        ("ray_steersweep_tasks_finished", ""): 6.0,
        ("ray_steersweep_tasks_set_aside", ""): 1.0,
        ("ray_steersweep_replicas_ready", ""): 1.0,
    }
    # Ray hands numbers on every 10 s.
    assert wait_until(lambda: wanted.items() <= exported(port).items(), 60.0), exported(port)


def exported(port: int) -> dict[tuple[str, str], float]:
    """Our numbers on the node's metrics page, by name and pool or kind."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    found = {}
    for line in lines:
        name, _, rest = line.partition("{")
        if name.startswith("ray_steersweep") and 'run="s3://bucket/numbers"' in rest:
            tag = re.search(r'(?:pool|kind)="(\w+)"', rest)
            found[name, tag[1] if tag else ""] = float(line.rpartition(" ")[2])
    return found


def address_of_cluster() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


@pytest.mark.ray
def test_a_session_leaves_a_cluster_alone_that_was_there(ray_cluster: None) -> None:
    from cluster.backends.ray_session import ray_session

    before = address_of_cluster()
    with ray_session():
        assert address_of_cluster() == before
    assert address_of_cluster() == before


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A temporary folder for Ray, short as socket names must be."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


JOIN = """
import os, sys
import ray
from cluster.backends.ray_session import ray_session
def address():
    with ray_session():
        return ray.get_runtime_context().gcs_address
named = os.environ.pop("RAY_ADDRESS")
print(address())
assert not ray.is_initialized()
os.environ["RAY_ADDRESS"] = named
print(address())
"""


SIGTERM_MEANWHILE = """
import os, signal, sys, time
from unittest import mock
import ray
from cluster.backends.ray_session import ray_session
from jobs.sweeps.signals import StopSignals
connect = ray._private.worker.connect
def interrupted(*args, **kwargs):
    if sys.argv[1] == "connected":
        connect(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
with StopSignals() as signals, mock.patch("ray._private.worker.connect", interrupted):
    try:
        with ray_session():
            pass
    except KeyboardInterrupt:
        assert not ray.is_initialized()
        time.sleep(4)  # Ray's C++ side would abort after three
        sys.exit(signals.exit_code)
"""


@pytest.mark.ray
@pytest.mark.parametrize("when", ["not yet connected", "connected"])
def test_sigterm_while_ray_connects_is_heard_by_who_waits_for_it(
    ray_cluster: None, when: str
) -> None:
    environment = {"PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": address_of_cluster()}
    interrupted = subprocess.run(
        [sys.executable, "-c", SIGTERM_MEANWHILE, when], env=os.environ | environment, timeout=240
    )
    assert interrupted.returncode == 143


@pytest.mark.ray
def test_a_session_joins_the_noted_and_the_named_cluster(
    ray_cluster: None, ray_folder: Path
) -> None:
    address = address_of_cluster()
    note = ray_folder / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text(address)
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_ADDRESS": address,
        "RAY_TMPDIR": str(ray_folder),
    }
    joined = subprocess.run(
        [sys.executable, "-c", JOIN], env=environment, stdout=subprocess.PIPE, timeout=240
    )
    assert joined.returncode == 0
    assert joined.stdout.decode().split() == [address, address]
    import ray

    assert ray.nodes()[0]["Alive"]


STARVED = """
import sys
from cluster.backends.ray_backend import RayBackend
from cluster.backends.ray_session import ray_session
from cluster.driver import execute
from cluster.policy import Policy
from cluster.scheduler import Scheduler
from cluster.storage import StorageSpec
from cluster.tasks import Pool, ReplicaLost, Task, WorkerFactory
from tests.support.workers import Script
def note(event):
    if isinstance(event, ReplicaLost):
        print("lost", event.failure.kind, flush=True)
with ray_session(), RayBackend(StorageSpec(sys.argv[1])) as backend:
    pool = Pool("a", WorkerFactory("tests.support.workers:ScriptedWorker"))
    scheduler = Scheduler([pool], 2, Policy(backoff_s=0.1, least_gain_s=999.0))
    scripts = [Script(0, "eat", sys.argv[2], seconds=4.0), *(Script(i) for i in range(1, 6))]
    scheduler.add(
        Task(f"t{s.value}", "a", 9.0 - s.value, {"rows": f"r/{s.value}"}, s) for s in scripts
    )
    outcome = execute(backend, scheduler, on_event=note)
    print("complete", outcome.complete, "replicas", scheduler.progress().num_ready_replicas)
"""


@pytest.mark.ray
@pytest.mark.skipif(
    psutil.virtual_memory().available < 6 * 2**30, reason="fills 2 GiB of memory to be killed for"
)
def test_a_replica_that_rays_monitor_kills_for_memory_is_done_without(
    ray_folder: Path, tmp_path: Path
) -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 2 * 2**30) / memory.total
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_ADDRESS": "local",
        "RAY_TMPDIR": str(ray_folder),
        "RAY_memory_usage_threshold": f"{threshold:.3f}",
        "RAY_memory_monitor_refresh_ms": "50",
    }
    finished = subprocess.run(
        [sys.executable, "-c", STARVED, str(tmp_path / "out"), str(tmp_path / "eaten")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=240,
    )
    # The monitor may kill the next replica before the first one's memory is given back.
    *losses, end = finished.stdout.splitlines()
    assert end == "complete True replicas 1"
    assert set(losses) == {"lost memory"}


ORPHAN = """
import json, os, sys
import ray
from cluster.backends.ray_backend import RayBackend
from cluster.backends.ray_session import ray_session
from cluster.storage import StorageSpec
from cluster.tasks import Pool, ReplicaReady, Task, WorkerFactory
from tests.support.workers import ArrivesBroken, Script
with ray_session():
    pool = Pool("a", WorkerFactory("tests.support.workers:ScriptedWorker"))
    with RayBackend(StorageSpec(sys.argv[1])) as backend:
        backend.start(0, pool)
        ready = []
        while not ready:
            ready = [event for event in backend.poll(1.0) if isinstance(event, ReplicaReady)]
        script = Script(do="sleep", seconds=60, marker=sys.argv[2])
        backend.submit(0, Task("t", "a", 1.0, {"rows": "r"}, script), "t-1-x")
        address = ray.get_runtime_context().gcs_address
        print(json.dumps({**ready[0].facts, "address": address}), flush=True)
        sys.stdin.read()
assert not ray.is_initialized()
"""


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_replica_ends_when_its_raylet_is_gone(
    ray_cluster: None, ray_folder: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "running"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "RAY_TMPDIR": str(ray_folder)}
    environment.pop("RAY_ADDRESS", None)
    driver = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path / "out"), str(marker)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        assert driver.stdout is not None
        facts = json.loads(driver.stdout.readline())
        replica, raylet = int(facts["pid"]), int(facts["parent"])
        assert facts["address"] != address_of_cluster(), (
            "took the private cluster of another process"
        )
        assert "raylet" in Path(f"/proc/{raylet}/cmdline").read_text()
        assert wait_until(marker.exists, SOON_S)
        os.kill(raylet, signal.SIGKILL)
        assert wait_until(lambda: not alive(replica), 20.0)  # its task would go on for a minute
    finally:
        try:
            driver.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.communicate()


CUT_OFF = """
import psutil, sys
from cluster.backends.ray_backend import RayBackend
from cluster.backends.ray_session import ray_session
from cluster.placement import Share
from cluster.storage import StorageSpec
from cluster.tasks import Pool, WorkerFactory
with ray_session():
    factory = WorkerFactory("tests.support.workers:ScriptedWorker")
    with RayBackend(StorageSpec(sys.argv[1])) as backend:
        backend.start(0, Pool("a", factory, Share(10**6)))  # nobody has room for it
        assert not backend.poll(1.0)
        raylet, = [p for p in psutil.Process().children() if p.name() == "raylet"]
        raylet.kill()
        events = []
        while not events:
            events = backend.poll(1.0)
        event, = events
        print(type(event).__name__, event.failure.kind, event.failure.message, flush=True)
        assert not backend.poll(0.1)
"""


@pytest.mark.ray
def test_a_driver_whose_node_dies_while_a_replica_starts_is_told(
    ray_folder: Path, tmp_path: Path
) -> None:
    """Ray says nothing: the actor was not placed yet, and never will be."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "RAY_TMPDIR": str(ray_folder)}
    environment["RAY_ADDRESS"] = "local"
    finished = subprocess.run(
        [sys.executable, "-c", CUT_OFF, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=240,
        env=environment,
    )
    said = finished.stdout.splitlines()[-1]  # Ray tells in its own words, too
    assert said.startswith("ReplicaLost run the Ray node that this driver was connected to is gone")
