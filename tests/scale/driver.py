"""What one driver bears, with replicas that do nothing: python -m tests.scale.driver.

Each size runs in a process of its own, so that its memory is its own. `empty`: events are made up
here, which leaves scheduler, loop and log. `ray`: real actors that return at once, or (`--commit`)
when they have committed a part of one row.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

from cluster.backends.base import Backend
from cluster.driver import execute
from cluster.lease import Lease
from cluster.placement import Share
from cluster.scheduler import Scheduler
from cluster.storage import StorageSpec
from cluster.tasks import Event, Pool, ReplicaReady, Task, TaskFinished, WorkerFactory
from jobs.sweeps.session import LOCK_KEY, stored_log
from tests.scale.gauge import MB, gauged, machine
from tests.scale.instant import InstantBackend, InstantReplica
from tests.support.s3 import BUCKET, s3_server

POOL = Pool("tiny", WorkerFactory("tests.scale.instant:TinyWorker"), share=Share(cpus=0.0))


def tasks(num: int, text_bytes: int = 0) -> Iterator[Task]:
    """Tasks with ids and keys as long as real ones, of a hundred different costs.

    `text_bytes`: of the payload of each, beside its number.
    """
    for number in range(num):
        task_id = hashlib.sha256(str(number).encode()).hexdigest()
        key = f"steered/model=base/split=intersentence/bias_type=profession/{task_id}.parquet"
        text = f"{number:0{text_bytes}}" if text_bytes else number
        yield Task(task_id, POOL.name, 1.0 + number * 37 % 100, {"rows": key}, text)


def measure(options: argparse.Namespace, num_tasks: int) -> dict[str, Any]:
    """Run that many tasks to their end; what it took of the driver."""
    with ExitStack() as stack:
        spec = StorageSpec(stack.enter_context(_output(options.storage)))
        storage = spec.open()
        lease = stack.enter_context(Lease.acquire(storage, LOCK_KEY))
        log = stack.enter_context(stored_log(storage))
        backend = _backend(options, spec, lease, stack)
        scheduler = Scheduler([POOL], options.replicas)
        started = _Started(options.replicas)
        num_bytes = 0

        def on_event(event: Event) -> None:
            nonlocal num_bytes
            if isinstance(event, ReplicaReady):
                started.one_more()
            elif isinstance(event, TaskFinished):
                started.num_done_after += started.is_all
                num_bytes += event.receipt.num_bytes
            log.write_if_due()

        with gauged() as added:
            scheduler.add(tasks(num_tasks, options.payload))
        with gauged() as ran:
            outcome = execute(backend, scheduler, on_event=on_event)
            wall_s, cpu_s = time.monotonic() - started.wall, time.process_time() - started.cpu
        assert outcome.complete, outcome.stop
        assert len(outcome.done) == num_tasks
    num_timed = started.num_done_after
    grown = ran.peak_rss_bytes - added.rss_before_bytes
    return {
        "backend": options.backend,
        "storage": options.storage,
        "commit": options.commit,
        "replicas": options.replicas,
        "payload_bytes": options.payload,
        "tasks": num_tasks,
        "tasks_timed": num_timed,
        "tasks_per_s": round(num_timed / wall_s, 1),
        "driver_cpu_ms_per_task": round(1e3 * cpu_s / num_timed, 4),
        "add_s": round(added.wall_s, 2),
        "run_s": round(ran.wall_s, 2),
        "driver_peak_mb": round(ran.peak_rss_bytes / MB, 1),
        "driver_bytes_per_task": round(grown / num_tasks),
        "stored_bytes_per_task": round(num_bytes / num_tasks) if options.commit else 0,
        **machine(),
    }


@dataclass
class _Started:
    """When the last replica was ready: starting Ray's processes is no part of a task's cost."""

    num_left: int
    wall: float = 0.0
    cpu: float = 0.0
    num_done_after: int = 0

    def one_more(self) -> None:
        self.num_left -= 1
        self.wall, self.cpu = time.monotonic(), time.process_time()

    @property
    def is_all(self) -> bool:
        return self.num_left == 0


def _backend(
    options: argparse.Namespace, storage: StorageSpec, lease: Lease, stack: ExitStack
) -> Backend:
    if options.backend == "empty":
        return stack.enter_context(InstantBackend(options.at_once))
    os.environ["RAY_ADDRESS"] = "local"
    from cluster.backends.ray_backend import RayBackend
    from cluster.backends.ray_session import ray_session

    stack.enter_context(ray_session())
    if not options.commit:
        stack.enter_context(mock.patch("cluster.backends.ray_backend.Replica", InstantReplica))
    return stack.enter_context(RayBackend(storage, lease.token))


@contextmanager
def _output(storage: str) -> Iterator[str]:
    if storage == "s3":
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"
        return
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        yield folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.driver", description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--backend", choices=["empty", "ray"], default="empty")
    parser.add_argument("--storage", choices=["local", "s3"], default="local")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--commit", action="store_true", help="with --backend ray")
    parser.add_argument("--payload", type=int, default=0, help="bytes of text with each task")
    parser.add_argument("--at-once", type=int, default=1, help="events a turn, --backend empty")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    if len(options.tasks) > 1:
        return _each_alone(options.tasks)
    with s3_server() if options.storage == "s3" else nullcontext():
        print(json.dumps(measure(options, options.tasks[0])), flush=True)
    return 0


def _each_alone(sizes: list[int]) -> int:
    at = sys.argv.index("--tasks") if "--tasks" in sys.argv else None
    others = sys.argv[1:] if at is None else sys.argv[1:at] + sys.argv[at + 1 + len(sizes) :]
    for size in sizes:
        command = [sys.executable, "-m", "tests.scale.driver", *others, "--tasks", str(size)]
        code = subprocess.run(command).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
