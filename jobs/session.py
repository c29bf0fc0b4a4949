"""What a session of any job is: an opened output, signals that end it, and a log that is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from cluster.environment import require_variables
from cluster.errors import ObjectNotFoundError, UserActionError
from cluster.lease import LEASE_S, Lease, LeaseContent
from cluster.logs import StoredLog
from cluster.storage import Storage, StorageSpec
from jobs.console import say
from jobs.signals import StopSignals
from jobs.spec import StorageOptions

LOCK_KEY = "driver.lock"
INTERRUPTED = "interrupted; finished work is kept, and the same command resumes it"


class HasOutput(Protocol):
    """The spec of any job."""

    @property
    def output(self) -> str:
        """Folder or ``s3://bucket/prefix``."""

    @property
    def storage(self) -> StorageOptions:
        """How to reach it."""


@dataclass(frozen=True)
class Opened:
    """An output that can be reached and that no other driver holds.

    Attributes:
        stack: closed when the session ends, however it ends.
    """

    storage_spec: StorageSpec
    storage: Storage
    stack: ExitStack
    signals: StopSignals


def run_session(spec: HasOutput, body: Callable[[Opened], int], *, new: bool) -> int:
    """The exit code of ``body``, or of the signal that ended it.

    Args:
        new: open an empty output beside one that is there already.

    Raises:
        UserActionError: the output cannot be reached, or another driver holds it.
    """
    require_variables()
    storage_spec = StorageSpec(spec.output, spec.storage.endpoint_url, spec.storage.region)
    if new:
        storage_spec = first_free(storage_spec)
    storage = storage_spec.open()
    storage.check_reachable()
    with StopSignals() as signals:
        try:
            Lease.await_free(
                storage, LOCK_KEY, on_wait=lambda held: say(f"{held}; checking whether it is alive")
            )
            with ExitStack() as stack:
                try:
                    return body(Opened(storage_spec, storage, stack, signals))
                except KeyboardInterrupt:
                    storage.hasten()  # a user is waiting while the stack is closed
                    raise
        except KeyboardInterrupt:
            say(INTERRUPTED)
            return signals.exit_code


@dataclass(frozen=True)
class DriverState:
    """What an output's lock and record say of its driver, in words; whether one is at it."""

    told: str
    is_running: bool

    @classmethod
    def of(cls, storage: Storage, record: Mapping[str, Any]) -> DriverState:
        """That of an output."""
        try:
            found = storage.read_versioned(LOCK_KEY)
        except ObjectNotFoundError:
            outcome, ended = record.get("outcome", "unknown"), record.get("ended")
            if outcome == "running":
                return cls("not running (the last run exited unexpectedly)", False)
            return cls(f"{outcome}" + (f", ended {ended}" if ended else ""), False)
        holder = LeaseContent.parse(found.data)
        if holder is None:
            return cls("locked by an unknown driver", False)
        who = f"process {holder.pid} on {holder.host}"
        is_running = found.age_s < LEASE_S
        state = "running" if is_running else "it may have died"
        return cls(f"{state}: {who}, last heard from {found.age_s:.0f} s ago", is_running)


@contextmanager
def stored_log(storage: Storage) -> Iterator[StoredLog]:
    """Everything the driver logs, kept under ``log/`` of the output."""
    log = StoredLog(storage, f"log/driver-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log")
    loggers = [logging.getLogger(name) for name in ("cluster", "jobs")]
    for each in loggers:
        each.addHandler(log)
        each.setLevel(logging.INFO)
        each.propagate = False
    try:
        yield log
    finally:
        for each in loggers:
            each.removeHandler(log)
        log.close()


def first_free(spec: StorageSpec) -> StorageSpec:
    """The first of ``<output>``, ``<output>-2``, ``<output>-3``, ... that holds nothing."""
    base = spec.uri.rstrip("/")
    for number in range(1, 1000):
        uri = base if number == 1 else f"{base}-{number}"
        candidate = StorageSpec(uri, spec.s3_endpoint_url, spec.s3_region)
        if next(iter(candidate.open().list()), None) is None:
            say(f"output: {uri}")
            return candidate
    raise UserActionError(f"{base}-2 to {base}-999 all exist; choose another output")
