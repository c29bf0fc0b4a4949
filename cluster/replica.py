"""Holds one loaded worker, runs one task at a time on it, and commits what it returns.

A plain class: a backend wraps it at the call (`ray.remote(Replica).options(...)`), and tests use it
as it is. Nothing is raised to the caller. What goes wrong is classified here, where the exception
and its class are at hand, and returned as a `Failure` of plain text.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from cluster.environment import require_variables
from cluster.errors import ClusterError, TransientStorageError
from cluster.lease import LeaseToken
from cluster.logs import StoredLog
from cluster.parts import commit_part
from cluster.storage import PutOutcome, Storage, StorageSpec
from cluster.tasks import (
    ChecksDevice,
    Failure,
    FailureKind,
    Receipt,
    Task,
    Worker,
    WorkerFactory,
)
from steersweep.errors import StopRunError

logger = logging.getLogger(__name__)

PARENT_CHECK_S = 0.25


class Replica:
    """One incarnation of a pool's worker."""

    def __init__(
        self,
        factory: WorkerFactory,
        storage_spec: StorageSpec,
        *,
        owns_process: bool = False,
        lease: LeaseToken | None = None,
    ) -> None:
        """Nothing is loaded yet.

        `lease`: what the driver left in its storage, and the replica must find in its own before
        it is ready. `owns_process`: this process is there for the replica alone.

        It then ends once its parent is gone: a replica whose node manager died is no longer known
        to the driver, and would hold its accelerator and go on writing until its call ends. And
        what is logged in it is kept beside the results.
        """
        self._factory = factory
        self._storage_spec = storage_spec
        self._lease = lease
        self._worker: Worker | None = None
        self._storage: Storage | None = None
        self._owns_process = owns_process
        self._log: StoredLog | None = None
        if owns_process:
            threading.Thread(
                target=_exit_when_orphaned, args=(os.getppid(),), name="parent-watch", daemon=True
            ).start()

    @classmethod
    def holding(cls, worker: Worker, storage: Storage) -> Replica:
        """One whose worker is loaded already, and that runs tasks in this process."""
        replica = cls(WorkerFactory(""), storage.spec)
        replica._worker, replica._storage = worker, storage
        return replica

    def placed(self) -> None:
        """Answers as soon as this process is there, so that waiting for it is told from loading."""

    def ready(self) -> Mapping[str, str] | Failure:
        """The worker's facts once it is loaded and storage is open; safe to call again."""
        try:
            require_variables()
            if self._worker is None:
                self._worker = self._factory.build()
            if self._storage is None:
                storage = self._storage_spec.open()
                if self._lease is not None:
                    self._lease.require_in(storage)
                self._storage = storage
                if self._owns_process:
                    self._log = StoredLog(self._storage, _log_key())
                    logging.getLogger().addHandler(self._log)
                    logger.setLevel(logging.INFO)
                    # The worker's own package too, but no library.
                    package = type(self._worker).__module__.partition(".")[0]
                    logging.getLogger(package).setLevel(logging.INFO)
            facts = dict(self._worker.load())
        except Exception as error:  # the worker is the caller's code: it may raise anything
            return self._failed(_kind_of_start_error(error), error)
        logger.info("ready: %s", facts)
        return facts

    def run(self, task: Task, attempt: str) -> Receipt | Failure:
        """Run the task and put its parts into storage, in the order of `task.parts`.

        The receipt counts rows and bytes over all parts; its duration includes the commits.
        """
        if self._worker is None or self._storage is None:
            return Failure(FailureKind.REPLICA, "replica was sent a task before it was ready")
        start = time.monotonic()
        try:
            tables = self._worker.run(task.payload)
            _check_names(task, tables)
        except Exception as error:  # the worker is the caller's code: it may raise anything
            broken = _device_error(self._worker)
            if broken is not None:
                return self._failed(FailureKind.REPLICA, error, broken)
            return self._failed(_kind_of_run_error(error), error)
        try:
            receipt = self._commit(self._storage, task, attempt, tables, start)
        except Exception as error:  # every store and serialiser has its own exceptions
            return self._failed(_kind_of_commit_error(error), error)
        logger.info("attempt %s: %d rows, %.1f s", attempt, receipt.num_rows, receipt.duration_s)
        if self._log is not None:
            self._log.write_if_due()
        return receipt

    def _failed(
        self, kind: FailureKind, error: Exception, device_error: Exception | None = None
    ) -> Failure:
        """The failure, logged; `device_error`: what the device says if it no longer works."""
        failure = Failure.from_exception(kind, error)
        if device_error is not None:
            failure = _as_device_failure(failure, error, device_error)
        logger.error("%s failure: %s", kind, failure.details)
        if self._log is not None:
            self._log.write()
        return failure

    def _commit(
        self,
        storage: Storage,
        task: Task,
        attempt: str,
        tables: Mapping[str, pa.Table],
        start: float,
    ) -> Receipt:
        parts = {
            name: commit_part(storage, key, tables[name], task_id=task.id, attempt=attempt)
            for name, key in task.parts.items()
        }
        for part in parts.values():
            if part.outcome is PutOutcome.LOST:
                logger.warning(
                    "%s holds other rows (digest %s) than attempt %s made (digest %s); they stay",
                    part.key,
                    part.stored_digest,
                    attempt,
                    part.digest,
                )
        return Receipt(
            task_id=task.id,
            attempt=attempt,
            num_rows=sum(part.num_rows for part in parts.values()),
            num_bytes=sum(part.num_bytes for part in parts.values()),
            duration_s=time.monotonic() - start,
            digests={name: part.stored_digest for name, part in parts.items()},
        )


def _log_key() -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
    return f"log/replica-{host}-{os.getpid()}-{time.time_ns() // 10**6}.log"


def _check_names(task: Task, tables: Mapping[str, pa.Table]) -> None:
    if set(tables) != set(task.parts):
        raise ValueError(
            f"worker must return the tables {sorted(task.parts)}, got {sorted(tables)}"
        )


def _device_error(worker: Worker) -> Exception | None:
    """What the worker's device says if it no longer works; None if it works or is not checked."""
    if not isinstance(worker, ChecksDevice):
        return None
    try:
        worker.check_device()
    except Exception as error:  # a broken device may raise anything
        return error
    return None


def _as_device_failure(failure: Failure, error: Exception, device_error: Exception) -> Failure:
    # CUDA's errors go on with several lines of advice for developers: they are in the details.
    said = str(error).strip().partition("\n")[0]
    check = Failure.from_exception(failure.kind, device_error).details
    return replace(
        failure,
        message=f"the device stopped working: {type(error).__name__}: {said}",
        details=f"{failure.details}\nThe device check then failed:\n{check}",
        user_must_act=False,
        device_is_lost=True,
    )


def _kind_of_start_error(error: Exception) -> FailureKind:
    return _kind_anywhere(error) or FailureKind.RUN


def _kind_of_run_error(error: Exception) -> FailureKind:
    if isinstance(error, ModuleNotFoundError):
        return FailureKind.RUN
    return _kind_anywhere(error) or FailureKind.TASK


def _kind_of_commit_error(error: Exception) -> FailureKind:
    known = _kind_anywhere(error)
    if known is not None:
        return known
    # A key or a table that cannot be stored now never will be; neither will a part whose place is
    # taken by something else.
    if isinstance(error, pa.ArrowException | ValueError | TypeError | ClusterError):
        return FailureKind.TASK
    return FailureKind.STORAGE


def _kind_anywhere(error: Exception) -> FailureKind | None:
    """What an error is wherever it comes up; None where that depends on what was being done."""
    if isinstance(error, TransientStorageError):
        return FailureKind.STORAGE
    if isinstance(error, StopRunError):
        return FailureKind.RUN
    if isinstance(error, MemoryError):  # Arrow's too
        return FailureKind.MEMORY
    return None


def _exit_when_orphaned(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    # os._exit, as no clean-up may wait: the worker's call still runs on the main thread.
    os._exit(1)
