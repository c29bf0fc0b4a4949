"""What a session of any job is: an opened output, signals that end it, and a log that is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from cluster.errors import UserActionError
from cluster.lease import Lease
from cluster.logs import StoredLog
from cluster.storage import Storage, StorageSpec
from jobs.console import say
from jobs.signals import StopSignals
from jobs.spec import StorageOptions

LOCK_KEY = "driver.lock"
INTERRUPTED = "interrupted; what is finished is kept, and the same command goes on from there"


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
    storage_spec = StorageSpec(spec.output, spec.storage.endpoint_url, spec.storage.region)
    if new:
        storage_spec = _beside(storage_spec)
    storage = storage_spec.open()
    storage.check_reachable()
    Lease.check_free(storage, LOCK_KEY)
    with StopSignals() as signals:
        try:
            with ExitStack() as stack:
                try:
                    return body(Opened(storage_spec, storage, stack, signals))
                except KeyboardInterrupt:
                    storage.hasten()  # a user is waiting while the stack is closed
                    raise
        except KeyboardInterrupt:
            say(INTERRUPTED)
            return signals.exit_code


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


def _beside(spec: StorageSpec) -> StorageSpec:
    """The first of ``<output>``, ``<output>-2``, ``<output>-3``, ... that holds nothing."""
    base = spec.uri.rstrip("/")
    for number in range(1, 1000):
        uri = base if number == 1 else f"{base}-{number}"
        candidate = StorageSpec(uri, spec.s3_endpoint_url, spec.s3_region)
        if next(iter(candidate.open().list()), None) is None:
            say(f"output: {uri}")
            return candidate
    raise UserActionError(f"{base}-2 to {base}-999 are all there; name another output")
