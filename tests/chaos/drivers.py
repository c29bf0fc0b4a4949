"""The drivers of the trials, as functions that a fresh process runs."""

from __future__ import annotations

import faulthandler
import hashlib
import logging
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa

from cluster.backends.ray_backend import RayBackend
from cluster.backends.ray_session import ray_session
from cluster.driver import execute
from cluster.errors import ClusterError
from cluster.lease import Lease
from cluster.ledger import Ledger
from cluster.outcome import Outcome
from cluster.parts import check_parts, read_part
from cluster.placement import Node, Share, num_fitting
from cluster.policy import Policy
from cluster.scheduler import Scheduler
from cluster.storage import Storage, StorageSpec
from cluster.tasks import Pool, Receipt, Task, WorkerFactory
from jobs.sweeps.signals import StopSignals
from steersweep.errors import UserError
from tests.chaos import conditions
from tests.chaos.workers import Shard

NUM_GROUPS, NUM_SHARDS = 2, 8
LEASE_TTL_S = 2.0
POLICY = Policy(
    backoff_s=0.1,
    max_backoff_s=1.0,
    first_deadline_s=40.0,
    min_deadline_s=40.0,
    start_deadline_s=60.0,
    stall_s=20.0,
    no_progress_s=120.0,
    least_gain_s=0.5,
)


_COUNTED = {
    "jobs.scoring.worker:ScoredWorker": "tests.chaos.workers:counted_stereoset_worker",
    "jobs.persona.worker:PersonaWorker": "tests.chaos.workers:counted_persona_worker",
}
"A worker of a sweep, and the one that notes what it does in its place."


@dataclass(frozen=True)
class Settings:
    """What a driver process is told."""

    address: str
    "Of the Ray cluster."
    uri: str
    endpoint_url: str | None
    log: str
    "Where workers note what they do."
    output: str
    "File that takes standard output and error."
    full_flag: str
    num_slots: int
    spec: str = ""
    "Sweep file of a real sweep; empty for the cheap job."
    judge_key: str = "none"
    "By which the judge of a sweep tells who asks."
    task_s: float = 0.2
    num_shards: int = NUM_SHARDS
    clock_offset_s: float = 0.0


def drive(settings: Settings) -> None:
    """Run the job of the settings to its end; exits as `steersweep run` does."""
    fd = os.open(settings.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    faulthandler.register(signal.SIGUSR1)  # says where it hangs
    os.environ |= {"RAY_ADDRESS": settings.address, "OPENAI_API_KEY": settings.judge_key}
    logging.basicConfig(
        level=logging.INFO,
        format="%(relativeCreated)d %(name)s %(message)s",
        filename=f"{settings.output}.log",
    )
    conditions.hurry()
    conditions.fill_disk_while(settings.full_flag)
    conditions.note_second_attempts(settings.log)
    if settings.clock_offset_s:
        conditions.shift_clock(settings.clock_offset_s)
    if settings.spec:
        _drive_sweep(settings)
    try:
        with StopSignals() as signals:
            code = _drive_cheap(settings)
    except KeyboardInterrupt:
        code = signals.exit_code
    except UserError as error:
        print(f"error: {error}")
        code = 2
    except ClusterError as error:
        print(f"error: {error}")
        code = 1
    sys.stdout.flush()
    sys.exit(code)


def _drive_sweep(settings: Settings) -> None:
    """`steersweep run`, with a short lease and workers that note what they do."""
    from jobs import cli

    def counted(target: str, kwargs: dict[str, object]) -> WorkerFactory:
        more = {"log": settings.log, "full_flag": settings.full_flag}
        return WorkerFactory(_COUNTED[target], {**kwargs, **more})

    acquire = partial(Lease.acquire, ttl_s=LEASE_TTL_S)
    await_free = partial(Lease.await_free, ttl_s=LEASE_TTL_S)
    with (
        mock.patch("sys.argv", ["steersweep", "run", settings.spec, "--no-figures"]),
        mock.patch("jobs.scoring.workflow.WorkerFactory", counted),
        mock.patch("jobs.persona.workflow.WorkerFactory", counted),
        mock.patch.object(Lease, "acquire", acquire),
        mock.patch.object(Lease, "await_free", await_free),
        mock.patch("jobs.sweeps.executor.Policy", lambda **_: POLICY),
    ):
        cli.main()


def _drive_cheap(settings: Settings) -> int:
    spec = StorageSpec(settings.uri, settings.endpoint_url)
    storage = spec.open()
    storage.check_reachable()
    with ExitStack() as stack:
        stack.enter_context(ray_session())
        ledger = Ledger(storage)
        record = ledger.read_record()
        storage.check_writable()
        lease = stack.enter_context(Lease.acquire(storage, ttl_s=LEASE_TTL_S))
        ledger.write_record(_record("running", record))
        storage.clean_temporaries(3600.0)
        job = CheapJob(storage, settings.num_shards)
        if not ledger.read_manifest():
            names = pa.table({"task": [name for name, *_ in job.phase_1]})
            ledger.append_manifest(names, 0, uuid.uuid4().hex)
        factory = WorkerFactory(
            "tests.chaos.workers:SumWorker",
            {
                "storage": spec,
                "log": settings.log,
                "seconds": settings.task_s,
                "full_flag": settings.full_flag,
            },
        )
        scheduler = Scheduler([Pool("cheap", factory)], settings.num_slots, POLICY)
        scheduler.add(job.first_tasks())
        backend = stack.enter_context(RayBackend(spec, lease.token, _room_of))
        try:
            outcome = execute(
                backend,
                scheduler,
                on_finished=job.after,
                stop_requested=lambda: lease.is_lost,
                poll_s=0.05,
            )
        except KeyboardInterrupt:
            storage.hasten()
            ledger.write_record(_record("interrupted", record))
            raise
        if lease.is_lost or not lease.still_held():
            raise UserError(f"another driver has taken over {storage.uri}")
        ended = _ended(outcome)
        ledger.write_record(_record(ended, record))
        print(ended)
        return 0 if outcome.complete else 2 if outcome.stop and outcome.stop.user_must_act else 1


def _room_of(nodes: Sequence[Node]) -> int:
    """As `replicas: auto` follows the nodes that come and go."""
    return sum(num_fitting(node, Share()) for node in nodes)


def _record(outcome: str, before: dict[str, object] | None) -> dict[str, object]:
    sessions = before["sessions"] if before else 0
    assert isinstance(sessions, int)
    of_run = {"identity": "cheap", "spec": {}, "started": "", "session": uuid.uuid4().hex}
    return {**of_run, "outcome": outcome, "sessions": sessions + 1}


def _ended(outcome: Outcome) -> str:
    if outcome.stop is not None:
        return f"error: {outcome.stop.message}"
    for entry in outcome.set_aside:
        print(f"set aside {entry.task.id}: {entry.reason}")
    return "done" if outcome.complete else "failed tasks"


class CheapJob:
    """Two phases over groups of shards, as the StereoSet sweep has them."""

    def __init__(self, storage: Storage, num_shards: int = NUM_SHARDS) -> None:
        self._storage = storage
        self.num_shards = num_shards
        self.phase_1 = [
            (_digest("phase 1", group, number), group, number)
            for group in range(NUM_GROUPS)
            for number in range(num_shards)
        ]
        self._done = self._find_done()
        self._left: Counter[int] = Counter()

    def first_tasks(self) -> list[Task]:
        """What the storage does not list as done, of the groups' present phase."""
        missing = [entry for entry in self.phase_1 if entry[0] not in self._done]
        self._left = Counter(group for _, group, _ in missing)
        tasks = [self._phase_1_task(*entry) for entry in missing]
        for group in range(NUM_GROUPS):
            if not self._left[group]:
                tasks += self._phase_2(group)
        return tasks

    def after(self, task: Task, _receipt: Receipt) -> Iterable[Task]:
        shard: Shard = task.payload
        if shard.factor_key:
            return []
        self._left[shard.group] -= 1
        return [] if self._left[shard.group] else self._phase_2(shard.group)

    def _phase_2(self, group: int) -> list[Task]:
        totals = [
            read_part(self._storage, self._phase_1_keys(name)["sums"], name)["total"][0].as_py()
            for name, of_group, _ in self.phase_1
            if of_group == group
        ]
        factor = np.asarray([sum(totals)])
        key = f"factors/{group}.bin"
        self._storage.replace(key, factor.tobytes())
        tasks = []
        for number in range(self.num_shards):
            name = _digest("phase 2", group, number, factor.tobytes().hex())
            part = f"steered/{name}.parquet"
            if name not in self._done:
                payload = Shard(name, group, number, key)
                tasks.append(Task(name, "cheap", 1.0, {"steered": part}, payload))
        return tasks

    def _phase_1_task(self, name: str, group: int, number: int) -> Task:
        payload = Shard(name, group, number)
        return Task(name, "cheap", 1.0, self._phase_1_keys(name), payload)

    @staticmethod
    def _phase_1_keys(name: str) -> dict[str, str]:
        return {"sums": f"sums/{name}.parquet", "rows": f"rows/{name}.parquet"}

    def _find_done(self) -> set[str]:
        """Names of the tasks whose last part is there and holds."""
        listed = [e.key for table in ("rows", "steered") for e in self._storage.list(f"{table}/")]
        good, bad = check_parts(self._storage, {key: Path(key).stem for key in listed})
        if bad:
            raise next(iter(bad.values()))
        return {Path(key).stem for key in good}


def _digest(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]
