"""What an output says about its run: ``run.json``, and the manifest of planned tasks.

The ledger tells; it does not decide what is done. What is done is what the storage lists.

``run.json`` is the fence between drivers: each writes it first, before anything else, and only over
the version that it has seen. So a driver that was frozen while another took over cannot write the
end of a run that is not its own any more.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cluster.errors import LeaseHeldError, ObjectNotFoundError
from cluster.parts import commit_part, read_part
from cluster.redaction import redact_all
from cluster.storage import PutOutcome, Storage
from steersweep.errors import UserError

RECORD_KEY = "run.json"
RECORD_VERSION = 1
_MANIFEST = "manifest/"
_REQUIRED = ("identity", "spec", "started", "outcome", "sessions")


class Ledger:
    """The record and the manifest of one output."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._version: str | None = None
        "Of the record as it was last seen; None where there was none."

    def read_record(self) -> dict[str, Any] | None:
        """The content of ``run.json``, or None where there is none.

        Raises `UserError` when it is not a run's record, or a newer version wrote it.
        """
        try:
            found = self._storage.read_versioned(RECORD_KEY)
        except ObjectNotFoundError:
            self._version = None
            return None
        data, self._version = found.data, found.version
        where = self._storage.uri_of(RECORD_KEY)
        try:
            record = dict(json.loads(data))
            version = record["record_version"]
            missing = [key for key in _REQUIRED if key not in record] if version == 1 else []
            if missing:
                raise KeyError(missing[0])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{where} is not the record of a run; choose another output") from error
        if not isinstance(version, int) or version > RECORD_VERSION:
            raise UserError(
                f"{where} has record version {version}, but this steersweep reads versions up to "
                f"{RECORD_VERSION}; use a newer steersweep"
            )
        return record

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace the ``run.json`` that was last read or written; readers see the old or the new.

        Secrets in it are hidden.

        Raises `LeaseHeldError` when another driver has written it meanwhile.
        """
        content = redact_all({"record_version": RECORD_VERSION, **record})
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        data = text.encode()
        if not self._replace_record(data):
            raise LeaseHeldError(
                f"another driver has just worked on {self._storage.uri}",
                cause="another_driver",
            )
        found = self._storage.read_versioned(RECORD_KEY)
        # Whoever came in between has its own version, which must not become ours.
        self._version = found.version if found.data == data else ""

    def _replace_record(self, data: bytes) -> bool:
        if self._version is not None:
            return self._storage.replace_if_version(RECORD_KEY, data, self._version)
        digest = hashlib.sha256(data).hexdigest()
        attempt = uuid.uuid4().hex
        outcome = self._storage.put_if_absent(RECORD_KEY, data, attempt=attempt, digest=digest)
        return outcome is not PutOutcome.LOST

    def read_manifest(self) -> list[pa.Table]:
        """The generations of planned tasks, oldest first.

        Raises `UserError` when one is missing or damaged: without it, what belongs to the run
        is not known.
        """
        keys = [entry.key for entry in self._storage.list(_MANIFEST)]
        wanted = [self._key(number) for number in range(len(keys))]
        if keys != wanted:
            raise UserError(
                f"{self._storage.uri_of(_MANIFEST)} holds {', '.join(keys)}, but "
                f"{', '.join(wanted)} were expected; choose another output"
            )
        return [read_part(self._storage, key, key) for key in keys]

    def append_manifest(self, table: pa.Table, generation: int, attempt: str) -> None:
        """Add a generation of planned tasks, never to be changed.

        Raises `UserError` when another driver has added that generation meanwhile.
        """
        key = self._key(generation)
        receipt = commit_part(self._storage, key, table, task_id=key, attempt=attempt)
        if receipt.outcome is PutOutcome.LOST:
            raise UserError(
                f"another driver has just extended {self._storage.uri}; run the same command again"
            )

    @staticmethod
    def _key(generation: int) -> str:
        return f"{_MANIFEST}{generation:04d}.parquet"
