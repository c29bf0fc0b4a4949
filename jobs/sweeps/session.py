"""What a session of any job is: an opened output, signals that end it, and a log that is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.environment import require_variables
from cluster.errors import ObjectNotFoundError
from cluster.lease import LEASE_S, Lease, LeaseContent
from cluster.logs import StoredLog
from cluster.storage import Storage, StorageSpec
from jobs.console import say
from jobs.spec import JobSpec
from jobs.sweeps.signals import StopSignals
from jobs.words import duration, moment
from steersweep.errors import UserError

LOCK_KEY = "driver.lock"
INTERRUPTED = "interrupted; finished work is kept, and the same command resumes it"


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


def run_session(spec: JobSpec, body: Callable[[Opened], int], *, new: bool) -> int:
    """The exit code of ``body``, or of the signal that ended it.

    Args:
        new: open an empty output beside one that is there already.

    Raises:
        UserError: the output cannot be reached, or another driver holds it.
    """
    require_variables()
    storage_spec = spec.storage_spec()
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


State = Literal[
    "running", "not responding", "not running", "done", "failed tasks", "stopped", "interrupted"
]
_AGAIN = "run the same command again to"
_ENDINGS = {
    "done": "finished {when}",
    "failed tasks": f"ended {{when}} with failed tasks; {_AGAIN} retry them",
    "stopped": f"stopped {{when}}{{reason}}; {_AGAIN} resume",
    "interrupted": f"interrupted {{when}}; {_AGAIN} resume",
}


@dataclass(frozen=True)
class DriverState:
    """What an output's lock and record say of its driver.

    Attributes:
        told: the same in words, for a reader.
        state: ``not running`` if the last run exited unexpectedly; ``not responding`` if a driver
            holds the output and has not been heard from for longer than it may be.
        host, pid, silent_s: of the driver that holds the output; when it was last heard from.
    """

    told: str
    state: State
    host: str | None = None
    pid: int | None = None
    silent_s: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether a driver is at work."""
        return self.state == "running"

    @classmethod
    def of(cls, storage: Storage, record: Mapping[str, Any]) -> DriverState:
        """That of an output."""
        try:
            found = storage.read_versioned(LOCK_KEY)
        except ObjectNotFoundError:
            return cls._without_lock(record)
        holder = LeaseContent.parse(found.data)
        if holder is None:
            return cls("locked by an unknown driver", "not responding", silent_s=found.age_s)
        heard = f"last heard from {duration(found.age_s)} ago"
        who = f"process {holder.pid} on {holder.host}"
        is_running = found.age_s < LEASE_S
        told = f"running ({who}, {heard})" if is_running else f"not responding ({who}, {heard})"
        state: State = "running" if is_running else "not responding"
        return cls(told, state, holder.host, holder.pid, found.age_s)

    @classmethod
    def _without_lock(cls, record: Mapping[str, Any]) -> DriverState:
        outcome = record.get("outcome")
        if outcome not in _ENDINGS:
            told = f"not running (the last run exited unexpectedly); {_AGAIN} resume"
            return cls(told if record else "not started", "not running")
        session = (record.get("sessions") or [{}])[-1]
        reason = f": {session['reason']}" if session.get("reason") else ""
        ended = record.get("ended")
        when = f"on {moment(ended)}" if ended else "at an unknown time"
        return cls(_ENDINGS[outcome].format(when=when, reason=reason), outcome)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "state": self.state,
            "is_running": self.is_running,
            "host": self.host,
            "pid": self.pid,
            "silent_s": self.silent_s,
        }


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
    raise UserError(f"{base}-2 to {base}-999 all exist; choose another output")
