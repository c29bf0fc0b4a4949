"""A storage in an S3 bucket.

Commit: one `PutObject` with `If-None-Match: *`. S3 publishes an object complete or not at all. When
the reply to a put that succeeded is lost, its repeat is answered 412; so the attempt is kept in the
metadata and looked up before a put counts as lost.
"""

import base64
import functools
import hashlib
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from cluster.errors import ObjectNotFoundError, StorageUnavailableError
from cluster.storage.base import PutOutcome, Storage, StorageSpec, StoredObject, VersionedObject
from cluster.storage.keys import (
    check_attempt,
    check_key,
    check_prefix,
    is_temporary,
    temporary_name,
)
from cluster.storage.s3_client import make_client, request

T = TypeVar("T")

PATIENCE_S = 120.0  # outlasts a failover of the store
READ_TIMEOUT_S = 60.0
CHECK_PATIENCE_S = 4.0  # a check has a user waiting
CHECK_READ_TIMEOUT_S = 8.0
_NUM_PUTS = 5
_PRECONDITION_FAILED = 412
_MISSING = 404
_EMPTY_RANGE = 416
# Of an object that is there: results rest on the first, the lease and the record on the second.
_FALSE_CONDITIONS = {
    "If-None-Match": {"IfNoneMatch": "*"},
    "If-Match": {"IfMatch": '"00000000000000000000000000000000"'},
}


class S3Storage(Storage):
    """Objects below one prefix of a bucket. The client is made at the first request."""

    def __init__(self, spec: StorageSpec) -> None:
        super().__init__(spec)
        self._bucket, _, prefix = spec.uri.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._patience_s = PATIENCE_S
        self._read_timeout_s = READ_TIMEOUT_S
        self._client: Any = None
        self._client_lock = threading.Lock()

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key begins with `prefix`, in the order of their keys."""
        return self._list(check_prefix(prefix))

    def _list(self, prefix: str) -> Iterator[StoredObject]:
        for entry in self._list_all(prefix):
            if not is_temporary(entry.key):
                yield entry

    def read(self, key: str) -> bytes:
        """Return the content."""
        return self._get(key)[0]

    def read_tail(self, key: str, num_bytes: int) -> bytes:
        """Return the last `num_bytes` bytes, or all where there are fewer."""
        return self._get(key, Range=f"bytes=-{num_bytes}")[0]

    def read_versioned(self, key: str) -> VersionedObject:
        """Return content, ETag, and seconds since it was written by the clock of the store."""
        data, response = self._get(key)
        return VersionedObject(data, str(response["ETag"]), _age_s(response))

    def put_if_absent(
        self,
        key: str,
        data: bytes,
        *,
        attempt: str,
        digest: str,
        metadata: Mapping[str, str] | None = None,
    ) -> PutOutcome:
        """Put on condition that nothing is there; on 412 look whose object it is."""
        kept = {**(metadata or {}), "attempt": check_attempt(attempt), "digest": digest}
        for _ in range(_NUM_PUTS):
            if self._put(check_key(key), data, kept, IfNoneMatch="*"):
                return PutOutcome.WON
            found = self._head(key)
            if found is None:
                continue  # deleted since: put again
            stored = found.get("Metadata", {})
            if stored.get("attempt") == attempt:
                return PutOutcome.WON
            same = stored.get("digest") == digest
            return PutOutcome.ALREADY_SAME if same else PutOutcome.LOST
        raise StorageUnavailableError(
            f"cannot write {self.uri_of(key)}: the store said {_NUM_PUTS} times that it exists and "
            "then that it does not; check the permission to read it"
        )

    def replace(self, key: str, data: bytes) -> None:
        """Put without a condition."""
        self._put(check_key(key), data, {})

    def replace_if_version(self, key: str, data: bytes, version: str) -> bool:
        """Put on condition that the ETag is still `version`."""
        attempt = uuid.uuid4().hex
        if self._put(check_key(key), data, {"attempt": attempt}, IfMatch=version):
            return True
        found = self._head(key)
        return found is not None and found.get("Metadata", {}).get("attempt") == attempt

    def delete(self, key: str) -> None:
        """Delete the object; a missing one is fine."""
        self._delete(check_key(key))

    def delete_if_version(self, key: str, version: str) -> bool:
        """Delete the object if its ETag is still `version`.

        Looked up and sent as a condition: some stores ignore the condition on a delete.
        """
        found = self._head(check_key(key))
        if found is None or found["ETag"] != version:
            return False
        return self._delete(key, IfMatch=version)

    def check_writable(self) -> None:
        """Put a probe, then again on conditions that must both be refused. Then delete it."""
        hasty = self._hasty()
        probe = temporary_name("steersweep-probe", uuid.uuid4().hex)
        try:
            hasty._put(probe, b"", {"attempt": "first"}, IfNoneMatch="*")
            for name, condition in _FALSE_CONDITIONS.items():
                if hasty._put(probe, b"", {"attempt": "second"}, **condition):
                    raise StorageUnavailableError(
                        f"cannot write to {self.uri}: this store ignores {name}, so one writer "
                        "could overwrite another; use a store with conditional writes"
                    )
        except StorageUnavailableError:
            with suppress(StorageUnavailableError):  # the first error says more
                hasty._delete(probe)  # the put may have happened even so
            raise
        hasty._delete(probe)

    def check_reachable(self) -> None:
        """List one key below the prefix."""
        hasty = self._hasty()
        hasty._send(
            f"list {self.uri}",
            lambda: hasty._s3().list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1
            ),
        )

    def clean_temporaries(self, older_than_s: float) -> int:
        """Delete probes of killed processes older than `older_than_s`; return how many."""
        num_deleted = 0
        for entry in self._list_all(""):
            if is_temporary(entry.key):
                found = self._head(entry.key)
                if found is not None and _age_s(found) > older_than_s:
                    self._delete(entry.key)
                    num_deleted += 1
        return num_deleted

    def hasten(self) -> None:
        """Wait for seconds; a request under way gives up when its present try has failed."""
        with self._client_lock:
            self._patience_s = CHECK_PATIENCE_S
            self._read_timeout_s = CHECK_READ_TIMEOUT_S
            self._client = None

    def _hasty(self) -> "S3Storage":
        hasty = S3Storage(self.spec)
        hasty.hasten()
        return hasty

    def _s3(self) -> Any:
        with self._client_lock:  # many threads may make the first request
            if self._client is None:
                self._client = make_client(self.spec, read_timeout_s=self._read_timeout_s)
            return self._client

    def _send(self, action: str, fn: Callable[[], T], tolerate: Collection[int] = ()) -> T | None:
        return request(
            fn,
            action=action,
            endpoint_url=self._s3().meta.endpoint_url,
            patience_s=lambda: self._patience_s,
            tolerate=tolerate,
        )

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _put(self, key: str, data: bytes, metadata: Mapping[str, str], **condition: str) -> bool:
        """Return whether the put was done; False if its condition did not hold."""
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        tolerate = [_PRECONDITION_FAILED] if condition else []
        if "IfMatch" in condition:
            tolerate.append(_MISSING)
        response = self._send(
            f"put {self.uri_of(key)}",
            lambda: self._s3().put_object(
                **self._object(key),
                Body=data,
                Metadata=dict(metadata),
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=checksum,
                **condition,
            ),
            tolerate,
        )
        return response is not None

    def _get(self, key: str, **options: str) -> tuple[bytes, dict[str, Any]]:
        place = self._object(check_key(key))

        def fetch() -> tuple[bytes, dict[str, Any]]:
            response = self._s3().get_object(**place, **options)
            return response["Body"].read(), response

        tolerate = [_MISSING, _EMPTY_RANGE] if options else [_MISSING]
        fetched = self._send(f"read {self.uri_of(key)}", fetch, tolerate)
        if fetched is not None:
            return fetched
        if options and self._head(key) is not None:
            return b"", {}  # an empty object has no range
        raise ObjectNotFoundError(f"{self.uri_of(key)} does not exist")

    def _head(self, key: str) -> dict[str, Any] | None:
        return self._send(
            f"look at {self.uri_of(key)}",
            lambda: self._s3().head_object(**self._object(key)),
            [_MISSING],
        )

    def _delete(self, key: str, **condition: str) -> bool:
        response = self._send(
            f"delete {self.uri_of(key)}",
            lambda: self._s3().delete_object(**self._object(key), **condition),
            [_MISSING, _PRECONDITION_FAILED],
        )
        return response is not None

    def _list_all(self, prefix: str) -> Iterator[StoredObject]:
        options = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            page = self._send(
                f"list {self.uri}", functools.partial(self._s3().list_objects_v2, **options)
            )
            assert page is not None  # no status is tolerated
            for entry in page.get("Contents", []):
                key = entry["Key"].removeprefix(self._prefix)
                # Consoles keep an empty object "name/" for a folder.
                if not key.endswith("/") and key:
                    yield StoredObject(key, entry["Size"], entry["ETag"])
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]


def _age_s(response: Mapping[str, Any]) -> float:
    date = response["ResponseMetadata"]["HTTPHeaders"].get("date")
    now = parsedate_to_datetime(date) if date else datetime.now(UTC)
    seconds: float = (now - response["LastModified"]).total_seconds()
    return max(0.0, seconds)
