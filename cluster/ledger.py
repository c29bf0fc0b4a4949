"""What an output says about its run: ``run.json``, and the manifest of planned tasks.

The ledger tells; it does not decide what is done. What is done is what the storage lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cluster.errors import ObjectNotFoundError, UserActionError
from cluster.parts import commit_part, read_part
from cluster.storage import PutOutcome, Storage

RECORD_KEY = "run.json"
RECORD_VERSION = 1
_MANIFEST = "manifest/"
_REQUIRED = ("identity", "spec", "started", "outcome", "sessions")


class Ledger:
    """The record and the manifest of one output."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read_record(self) -> dict[str, Any] | None:
        """The content of ``run.json``, or None where there is none.

        Raises `UserActionError` when it is not a run's record, or a newer version wrote it.
        """
        try:
            data = self._storage.read(RECORD_KEY)
        except ObjectNotFoundError:
            return None
        where = self._storage.uri_of(RECORD_KEY)
        try:
            record = dict(json.loads(data))
            version = record["record_version"]
            missing = [key for key in _REQUIRED if key not in record] if version == 1 else []
            if missing:
                raise KeyError(missing[0])
        except (ValueError, KeyError, TypeError) as error:
            raise UserActionError(
                f"{where} is not the record of a run; name another output"
            ) from error
        if not isinstance(version, int) or version > RECORD_VERSION:
            raise UserActionError(
                f"{where} has record version {version}, this steersweep reads up to "
                f"{RECORD_VERSION}; use the newer version"
            )
        return record

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace ``run.json``; readers see the old one or the new one."""
        content = {"record_version": RECORD_VERSION, **record}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        self._storage.replace(RECORD_KEY, text.encode())

    def read_manifest(self) -> list[pa.Table]:
        """The generations of planned tasks, oldest first.

        Raises `UserActionError` when one is missing or damaged: without it, what belongs to the run
        is not known.
        """
        keys = [entry.key for entry in self._storage.list(_MANIFEST)]
        wanted = [self._key(number) for number in range(len(keys))]
        if keys != wanted:
            raise UserActionError(
                f"{self._storage.uri_of(_MANIFEST)} holds {', '.join(keys)} where "
                f"{', '.join(wanted)} were expected; name another output"
            )
        return [read_part(self._storage, key, key) for key in keys]

    def append_manifest(self, table: pa.Table, generation: int, attempt: str) -> None:
        """Add a generation of planned tasks, never to be changed.

        Raises `UserActionError` when another driver has added that generation meanwhile.
        """
        key = self._key(generation)
        receipt = commit_part(self._storage, key, table, task_id=key, attempt=attempt)
        if receipt.outcome is PutOutcome.LOST:
            raise UserActionError(
                f"{self._storage.uri} was extended by another driver just now; run the same "
                "command again"
            )

    @staticmethod
    def _key(generation: int) -> str:
        return f"{_MANIFEST}{generation:04d}.parquet"
