"""One driver at a time for an output.

The lease saves work: it tells a second driver that it is not alone. Safety never rests on it, since
a holder that was frozen goes on when it wakes. Parts stay correct with any number of drivers, and
the record of a run is fenced by its own version (`cluster.ledger`).
"""

import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from cluster.errors import (
    ClusterError,
    LeaseHeldError,
    ObjectNotFoundError,
    StorageUnavailableError,
)
from cluster.processes import is_running, machine_id, process_start
from cluster.storage.base import PutOutcome, Storage, VersionedObject
from steersweep.errors import StopRunError

_LOG = logging.getLogger(__name__)
_NUM_TRIES = 20
_RENEWALS_PER_TTL = 6
_LOOKS_PER_TTL = 30
LEASE_S = 60.0
"""A lease that is not renewed for so long has ended."""

_STOP_WAIT_S = 5.0


@dataclass(frozen=True)
class LeaseContent:
    """What the lock object says about its holder. Times are UTC in ISO 8601, by its clock."""

    token: str
    host: str
    machine: str
    pid: int
    process_start: str | None
    since: str
    renewed: str

    @classmethod
    def of_this_process(cls) -> Self:
        """Return a new token with this process as its holder."""
        now = _now()
        pid = os.getpid()
        return cls(
            uuid.uuid4().hex, socket.gethostname(), machine_id(), pid, process_start(pid), now, now
        )

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """Return the content, or None when it is not that of a lease."""
        try:
            found = cls(**json.loads(data))
        except (ValueError, TypeError):
            return None
        return found if isinstance(found.pid, int) else None

    def to_bytes(self) -> bytes:
        """Return the content as JSON."""
        return json.dumps(asdict(self), indent=1).encode()


@dataclass(frozen=True)
class LeaseToken:
    """What tells a driver's lock from any other; picklable."""

    key: str
    token: str

    def require_in(self, storage: Storage) -> None:
        """Raise `StopRunError` unless the storage holds this very lock.

        A folder of the same name on another node, or another store behind the same address, would
        take results that the driver never sees.
        """
        try:
            found = LeaseContent.parse(storage.read(self.key))
        except ObjectNotFoundError:
            found = None
        if found is None or found.token != self.token:
            raise StopRunError(
                f"{storage.uri} on {socket.gethostname()} does not contain this driver's "
                f"{self.key}: that node sees another folder or store; use s3:// or a folder that "
                "all nodes share"
            )


class Lease:
    """The right of this process to drive the runs of one output; a context manager.

    A daemon thread renews it every sixth of its time to live.
    """

    def __init__(self, storage: Storage, key: str, content: LeaseContent, ttl_s: float) -> None:
        self._storage = storage
        self._key = key
        self._content = content
        self._ttl_s = ttl_s
        self._renewed_at = time.monotonic()
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_on, name="lease", daemon=True)

    @classmethod
    def acquire(cls, storage: Storage, key: str = "driver.lock", *, ttl_s: float = LEASE_S) -> Self:
        """Return the lease, held and being renewed.

        A lock left by a dead process of this machine is taken over at once; any other when it was
        not renewed for `ttl_s`, by the clock of the store: its holder is dead, cut off or frozen,
        and hears of it when it wakes. Of several contenders one gets it. Raises `LeaseHeldError`
        otherwise, and `StorageUnavailableError`.
        """
        content = LeaseContent.of_this_process()
        data = content.to_bytes()
        digest = hashlib.sha256(data).hexdigest()
        for _ in range(_NUM_TRIES):
            outcome = storage.put_if_absent(key, data, attempt=content.token, digest=digest)
            if outcome is not PutOutcome.LOST:
                break
            try:
                found = storage.read_versioned(key)
            except ObjectNotFoundError:
                continue  # released since
            _refuse_if_held(storage.uri_of(key), found, ttl_s)
            if storage.replace_if_version(key, data, found.version):
                _LOG.info("took over %s", storage.uri_of(key))
                break
        else:
            raise LeaseHeldError(
                f"{storage.uri_of(key)} is taken over again and again: several drivers "
                "are being started on this output; start only one"
            )
        lease = cls(storage, key, content, ttl_s)
        lease._thread.start()
        return lease

    @staticmethod
    def await_free(
        storage: Storage,
        key: str = "driver.lock",
        *,
        ttl_s: float = LEASE_S,
        on_wait: Callable[[str], None] = lambda _told: None,
    ) -> None:
        """Return when `acquire` would succeed, without writing anything.

        A driver that is started again elsewhere, as after the loss of its node, finds the lock of
        the one before. The lock of a live driver changes within a sixth of `ttl_s`; one that does
        not is waited for until it has run out, and `on_wait` is told once. Raises `LeaseHeldError`
        where its holder lives: at once on this machine, when it renews on another.
        """
        first: VersionedObject | None = None
        while True:
            try:
                found = storage.read_versioned(key)
            except ObjectNotFoundError:
                return
            try:
                _refuse_if_held(storage.uri_of(key), found, ttl_s)
            except LeaseHeldError as error:
                holder = LeaseContent.parse(found.data)
                if holder is None or holder.machine == machine_id():
                    raise
                if first is None:
                    first = found
                    on_wait(str(error))
                elif found.version != first.version:
                    raise
            else:
                return
            time.sleep(ttl_s / _LOOKS_PER_TTL)

    @property
    def token(self) -> LeaseToken:
        """What a replica must find to know that it writes where this driver reads."""
        return LeaseToken(self._key, self._content.token)

    @property
    def is_lost(self) -> bool:
        """Whether somebody else was found to hold the lease.

        Asks the store, for seconds at most, only where the lease was not renewed for its time to
        live: as after this process was stopped. What the store does not answer is not a loss.
        """
        if not self._lost.is_set() and time.monotonic() - self._renewed_at > self._ttl_s:
            self._renewed_at = time.monotonic()
            hasty = self._storage.spec.open()
            hasty.hasten()
            with suppress(StorageUnavailableError):
                self._read_own(hasty)
        return self._lost.is_set()

    def still_held(self) -> bool:
        """Return whether the store says, now, that this process holds the lease.

        Raises `StorageUnavailableError`.
        """
        if self._stop.is_set() or self._lost.is_set():
            return False
        return self._read_own(self._storage) is not None

    def release(self) -> None:
        """Stop renewing and delete the lock if it is still ours. Again is fine; never raises.

        What cannot be deleted now runs out by itself.
        """
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(_STOP_WAIT_S)
        try:
            found = self._read_own(self._storage)
            if found is not None:
                self._storage.delete_if_version(self._key, found.version)
        except ClusterError as error:
            _LOG.warning("lease not released: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _renew_on(self) -> None:
        while not (self._stop.wait(self._ttl_s / _RENEWALS_PER_TTL) or self._lost.is_set()):
            try:
                self._renew()
            except StorageUnavailableError as error:
                # Until another driver takes it, the lease is ours however late it is renewed.
                _LOG.warning("lease not renewed: %s", error)

    def _renew(self) -> None:
        found = self._read_own(self._storage)
        if found is not None:
            content = replace(self._content, renewed=_now())
            if self._storage.replace_if_version(self._key, content.to_bytes(), found.version):
                self._renewed_at = time.monotonic()

    def _read_own(self, storage: Storage) -> VersionedObject | None:
        """Return the lock as stored, or None, and the lease is lost, when it is not ours."""
        try:
            found = storage.read_versioned(self._key)
        except ObjectNotFoundError:
            self._lost.set()
            return None
        content = LeaseContent.parse(found.data)
        if content is None or content.token != self._content.token:
            self._lost.set()
            return None
        return found


def _refuse_if_held(uri: str, found: VersionedObject, ttl_s: float) -> None:
    holder = LeaseContent.parse(found.data)
    age = f"renewed {found.age_s:.0f} s ago"
    if holder is None:
        if found.age_s <= ttl_s:
            raise LeaseHeldError(
                f"{uri} is held by an unknown driver, {age}; try again in {ttl_s:.0f} s"
            )
        return
    is_here = holder.machine == machine_id()
    if is_here and not is_running(holder.pid, holder.process_start):
        return
    if found.age_s > ttl_s:
        return
    what_to_do = (
        f"wait for process {holder.pid} or stop it" if is_here else "wait for it or stop it there"
    )
    raise LeaseHeldError(
        f"another driver holds {uri}: process {holder.pid} on {holder.host}, since {holder.since}, "
        f"{age}; {what_to_do}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
