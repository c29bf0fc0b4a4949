"""What a replica commits, how it classifies what goes wrong, and when it ends itself."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.errors import (
    CorruptPartError,
    NewerPartError,
    StorageUnavailableError,
    TransientStorageError,
)
from cluster.lease import Lease
from cluster.parts import read_part
from cluster.replica import Replica
from cluster.storage import StorageSpec
from cluster.tasks import Failure, FailureKind, Receipt, Task, WorkerFactory
from steersweep.errors import StopRunError, UserError

REPOSITORY = Path(__file__).parents[3]


class Recorder:
    """A worker whose `run` returns or raises what the payload is."""

    num_loads = 0

    def __init__(self, load_error: Exception | None = None) -> None:
        self.load_error = load_error

    def load(self) -> Mapping[str, str]:
        type(self).num_loads += 1
        if self.load_error is not None:
            raise self.load_error
        return {"device": "cpu"}

    def run(self, payload: Any) -> Mapping[str, pa.Table]:
        if isinstance(payload, Exception):
            raise payload
        assert isinstance(payload, dict)
        return payload


@dataclass(frozen=True)
class FactoryOf:
    """Stands in for `WorkerFactory` where the test builds the worker itself."""

    worker: Any

    def build(self) -> Any:
        return self.worker


def replica_of(worker: Any, folder: Path) -> Replica:
    return Replica(FactoryOf(worker), StorageSpec(str(folder)))  # type: ignore[arg-type]


def task_of(payload: Any, **parts: str) -> Task:
    return Task("t1", "a", 1.0, parts or {"rows": "rows/t1.parquet"}, payload)


def run(folder: Path, task: Task) -> Receipt | Failure:
    replica = replica_of(Recorder(), folder)
    assert replica.ready() == {"device": "cpu"}
    return replica.run(task, "t1-1-x")


def test_a_receipt_says_what_is_in_storage(tmp_path: Path) -> None:
    tables = {"rows": pa.table({"x": [1, 2, 3]}), "sums": pa.table({"y": [0.5]})}
    receipt = run(tmp_path, task_of(tables, rows="rows/t1.parquet", sums="sums/t1.parquet"))
    assert isinstance(receipt, Receipt)
    storage = StorageSpec(str(tmp_path)).open()
    assert read_part(storage, "rows/t1.parquet", "t1").equals(tables["rows"])
    assert read_part(storage, "sums/t1.parquet", "t1").equals(tables["sums"])
    assert (receipt.task_id, receipt.attempt, receipt.num_rows) == ("t1", "t1-1-x", 4)
    stored = (tmp_path / "rows/t1.parquet", tmp_path / "sums/t1.parquet")
    assert receipt.num_bytes == sum(path.stat().st_size for path in stored)
    assert set(receipt.digests) == {"rows", "sums"}
    assert receipt.digests["rows"] != receipt.digests["sums"]


def test_the_worker_is_built_once_and_ready_may_be_asked_again(tmp_path: Path) -> None:
    replica = Replica(WorkerFactory("tests.support.workers:ScriptedWorker"), StorageSpec("x"))
    first = replica.ready()
    worker = replica._worker
    assert replica.ready() == first
    assert replica._worker is worker


def test_parts_are_committed_in_the_order_of_the_task(tmp_path: Path) -> None:
    table = pa.table({"x": [1]})
    for taken, survivors in (("z.parquet", set()), ("a.parquet", {"z.parquet"})):
        folder = tmp_path / taken
        folder.mkdir()
        (folder / taken).write_bytes(b"not a part")
        # The order of the worker's tables must not matter.
        task = task_of({"a": table, "z": table}, z="z.parquet", a="a.parquet")
        failure = run(folder, task)
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.TASK
        assert {p.name for p in folder.iterdir()} - {taken} == survivors


class OnDevice(Recorder):
    """A worker whose device says what it was told to."""

    def __init__(self, device_error: Exception | None) -> None:
        super().__init__()
        self.device_error = device_error
        self.num_checks = 0

    def check_device(self) -> None:
        self.num_checks += 1
        if self.device_error is not None:
            raise self.device_error


@pytest.mark.parametrize(
    "raised", [RuntimeError("CUDA error: odd\nadvice"), MemoryError(), UserError("look")]
)
def test_any_failure_on_a_broken_device_is_a_lost_replica(
    raised: Exception, tmp_path: Path
) -> None:
    worker = OnDevice(RuntimeError("the check says so"))
    replica = replica_of(worker, tmp_path)
    replica.ready()
    failure = replica.run(task_of(raised), "t1-1-x")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.device_is_lost) == (FailureKind.REPLICA, True)
    assert not failure.user_must_act
    said = f"{type(raised).__name__}: {raised}".partition("\n")[0]
    assert failure.message == f"the device stopped working: {said}"
    assert "the check says so" in failure.details


def test_a_failure_on_a_working_device_is_what_it_was(tmp_path: Path) -> None:
    worker = OnDevice(None)
    replica = replica_of(worker, tmp_path)
    replica.ready()
    failure = replica.run(task_of(ValueError("odd")), "t1-1-x")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.device_is_lost) == (FailureKind.TASK, False)
    assert worker.num_checks == 1
    assert isinstance(replica.run(task_of({"rows": pa.table({"x": [1]})}), "t1-2-x"), Receipt)
    assert worker.num_checks == 1


def test_a_second_attempt_finds_the_part_and_reports_what_is_stored(tmp_path: Path) -> None:
    first = run(tmp_path, task_of({"rows": pa.table({"x": [1]})}))
    same = run(tmp_path, task_of({"rows": pa.table({"x": [1]})}))
    other = run(tmp_path, task_of({"rows": pa.table({"x": [2]})}))
    assert isinstance(first, Receipt)
    assert isinstance(same, Receipt)
    assert isinstance(other, Receipt)
    assert first.digests == same.digests == other.digests
    stored = read_part(StorageSpec(str(tmp_path)).open(), "rows/t1.parquet", "t1")
    assert stored.column("x").to_pylist() == [1]


@pytest.mark.parametrize("tables", [{}, {"row": None}, {"rows": None, "more": None}])
def test_tables_that_the_task_does_not_name_are_its_failure(
    tmp_path: Path, tables: dict[str, None]
) -> None:
    failure = run(tmp_path, task_of(tables))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.TASK
    assert "must return the tables ['rows'], got" in failure.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "kind", "message", "user_must_act"),
    [
        (ValueError("odd\n  value"), FailureKind.TASK, "ValueError: odd value", False),
        (KeyError(), FailureKind.TASK, "KeyError", False),
        (MemoryError("out"), FailureKind.MEMORY, "MemoryError: out", False),
        (OSError("disk"), FailureKind.TASK, "OSError: disk", False),
        (ModuleNotFoundError("no x"), FailureKind.RUN, "ModuleNotFoundError: no x", False),
        (StopRunError("change it"), FailureKind.RUN, "change it", True),
        (UserError("too long", "row 3"), FailureKind.TASK, "too long row 3", True),
        (CorruptPartError("no part"), FailureKind.TASK, "no part", True),
        (NewerPartError("too new"), FailureKind.TASK, "too new", True),
        (StorageUnavailableError("no bucket"), FailureKind.RUN, "no bucket", True),
        (TransientStorageError("no answer"), FailureKind.STORAGE, "no answer", False),
    ],
)
def test_what_a_run_raises_is_classified(
    tmp_path: Path, error: Exception, kind: FailureKind, message: str, user_must_act: bool
) -> None:
    failure = run(tmp_path, task_of(error))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == (kind, message)
    assert failure.user_must_act is user_must_act
    assert "Traceback" in failure.details
    assert "replica.py" in failure.details
    assert pickle.loads(pickle.dumps(failure)) == failure


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("reset"), FailureKind.STORAGE),
        (TimeoutError("slow"), FailureKind.STORAGE),
        (RuntimeError("what a store may raise"), FailureKind.STORAGE),
        (pa.ArrowNotImplementedError("type"), FailureKind.TASK),
        (ValueError("bad key"), FailureKind.TASK),
        (UserError("no such thing"), FailureKind.TASK),
        (CorruptPartError("no part"), FailureKind.TASK),
        (StopRunError("no such thing"), FailureKind.RUN),
        (StorageUnavailableError("bucket gone"), FailureKind.RUN),
        (TransientStorageError("no answer for 120 s"), FailureKind.STORAGE),
        (pa.ArrowMemoryError("malloc"), FailureKind.MEMORY),
    ],
)
def test_what_a_commit_raises_is_classified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: FailureKind
) -> None:
    def commit(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("cluster.replica.commit_part", commit)
    failure = run(tmp_path, task_of({"rows": pa.table({"x": [1]})}))
    assert isinstance(failure, Failure)
    assert failure.kind is kind


def test_a_key_outside_the_storage_is_the_failure_of_the_task(tmp_path: Path) -> None:
    failure = run(tmp_path, task_of({"rows": pa.table({"x": [1]})}, rows="../out.parquet"))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.TASK


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (WorkerFactory("nowhere.at_all:Worker"), "ModuleNotFoundError: No module named 'nowhere'"),
        (WorkerFactory("tests.support.workers:Nobody"), "AttributeError"),
        (WorkerFactory("tests.support.workers"), "must be 'package.module:callable'"),
        (
            WorkerFactory("tests.support.workers:ScriptedWorker", {"load": "raise"}),
            "RuntimeError: no such model",
        ),
    ],
)
def test_a_worker_that_cannot_load_is_a_failure_of_the_run(
    tmp_path: Path, factory: WorkerFactory, text: str
) -> None:
    failure = Replica(factory, StorageSpec(str(tmp_path))).ready()
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.RUN
    assert text in failure.message


def test_a_replica_that_does_not_see_the_lease_of_its_driver_stops_the_run(tmp_path: Path) -> None:
    with Lease.acquire(StorageSpec(str(tmp_path / "shared")).open()) as lease:
        factory = WorkerFactory("tests.support.workers:ScriptedWorker")
        for name, is_ready in (("shared", True), ("not shared", False)):
            replica = Replica(factory, StorageSpec(str(tmp_path / name)), lease=lease.token)
            found = replica.ready()
            assert isinstance(found, Failure) is not is_ready
            if isinstance(found, Failure):
                assert (found.kind, found.user_must_act) == (FailureKind.RUN, True)
                assert "that all nodes share" in found.message
    assert not (tmp_path / "not shared").exists()


def test_a_task_before_ready_is_refused(tmp_path: Path) -> None:
    failure = replica_of(Recorder(), tmp_path).run(task_of({}), "t1-1-x")
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.REPLICA


CHILD = """
import os, subprocess, sys, time
from cluster.replica import Replica
from cluster.storage import StorageSpec
from cluster.tasks import WorkerFactory
if sys.argv[1] == "parent":
    child = subprocess.Popen([sys.executable, sys.argv[2], "child", *sys.argv[2:]])
    child.wait()
else:
    factory = WorkerFactory("tests.support.workers:ScriptedWorker")
    Replica(factory, StorageSpec("x"), owns_process=sys.argv[3] == "watch")
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(("mode", "ends"), [("watch", True), ("stay", False)])
def test_a_replica_ends_within_a_second_of_its_parent(
    tmp_path: Path, mode: str, ends: bool
) -> None:
    script = tmp_path / "script.py"
    script.write_text(CHILD)
    parent = subprocess.Popen(
        [sys.executable, str(script), "parent", str(script), mode],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert alive(child)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        time.sleep(1.0)
        assert alive(child) is not ends
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
