"""A new storage, made with the public interface alone: objects in the memory of this process."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cluster.errors import ObjectNotFoundError
from cluster.storage import PutOutcome, Storage, StorageSpec, StoredObject, VersionedObject
from cluster.storage.base import Scheme
from cluster.storage.keys import check_attempt, check_key, check_prefix


@dataclass
class _Root:
    """The objects of one URI: bytes and when they were written; one lock makes puts atomic."""

    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


_ROOTS: dict[str, _Root] = {}


class MemoryStorage(Storage):
    def __init__(self, spec: StorageSpec) -> None:
        super().__init__(spec)
        self._root = _ROOTS.setdefault(spec.uri, _Root())

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        check_prefix(prefix)
        found = sorted(self._root.objects.items())
        return (StoredObject(k, len(data)) for k, (data, _) in found if k.startswith(prefix))

    def read(self, key: str) -> bytes:
        return self.read_versioned(key).data

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        return self.read(key)[-num_bytes:]

    def read_versioned(self, key: str) -> VersionedObject:
        if not self._has(key):
            raise ObjectNotFoundError(f"{self.uri_of(key)} does not exist")
        data, written = self._root.objects[key]
        return VersionedObject(data, hashlib.sha256(data).hexdigest(), time.monotonic() - written)

    def _has(self, key: str) -> bool:
        return check_key(key) in self._root.objects

    def put_if_absent(
        self,
        key: str,
        data: bytes,
        *,
        attempt: str,
        digest: str,
        metadata: Mapping[str, str] | None = None,
    ) -> PutOutcome:
        check_attempt(attempt)
        with self._root.lock:
            if self._has(key):
                return PutOutcome.ALREADY_SAME if self.read(key) == data else PutOutcome.LOST
            self.replace(key, data)
            return PutOutcome.WON

    def replace(self, key: str, data: bytes) -> None:
        self._root.objects[check_key(key)] = data, time.monotonic()

    def replace_if_version(self, key: str, data: bytes, version: str) -> bool:
        with self._root.lock:
            if not self._has(key) or self.read_versioned(key).version != version:
                return False
            self.replace(key, data)
            return True

    def delete(self, key: str) -> None:
        self._root.objects.pop(check_key(key), None)

    def delete_if_version(self, key: str, version: str) -> bool:
        with self._root.lock:
            if not self._has(key) or self.read_versioned(key).version != version:
                return False
            self.delete(key)
            return True

    def check_writable(self) -> None:
        """Memory can be written."""

    def check_reachable(self) -> None:
        """Memory can be read."""

    def hasten(self) -> None:
        """Memory answers at once."""

    def clean_temporaries(self, older_than_s: float) -> int:
        return 0


MEMORY = Scheme(normalise=lambda uri: uri.rstrip("/"), open=MemoryStorage)
"""Of ``memory://name``."""
