"""One Parquet file for each (task, table): commit, check, read.

The footer says whose part it is and what it holds, so that a part can be judged from its last
kilobytes, and read without this project.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import CorruptPartError, NewerPartError, ObjectNotFoundError
from cluster.storage.base import PutOutcome, Storage
from cluster.table_digest import table_digest
from cluster.threads import thread_pool

SCHEMA_VERSION = 1
_OWN = "steersweep."
_TAIL_BYTES = 64 * 1024
_KEYS_PER_CALL = 32
_FRAME_BYTES = 8  # at the end of a Parquet file: length of the footer, and PAR1
_ROW_GROUP_ROWS = 1 << 20


@dataclass(frozen=True)
class PartReceipt:
    """What became of a commit. Rows, bytes and `digest` are those of this attempt.

    `stored_digest` is that of the part now in storage: another one only when the outcome is LOST.
    """

    key: str
    outcome: PutOutcome
    num_rows: int
    num_bytes: int
    digest: str
    stored_digest: str


@dataclass(frozen=True)
class PartInfo:
    """What the footer of a part says; `metadata` is that of the table's own schema."""

    key: str
    task_id: str
    attempt: str
    schema_version: int
    num_rows: int
    digest: str
    metadata: Mapping[str, str]


def commit_part(
    storage: Storage, key: str, table: pa.Table, *, task_id: str, attempt: str
) -> PartReceipt:
    """Put `table` under `key` unless a part is there, and return what became of it.

    The bytes depend on the content of the table, `task_id` and `attempt` alone. Safe to repeat.
    Raises `CorruptPartError` when what is there already is not a part of this task,
    `StorageUnavailableError`, and `TypeError` for a column type that a part cannot hold.
    """
    digest = table_digest(table)
    data = _serialise(table, task_id=task_id, attempt=attempt, digest=digest)
    receipt = PartReceipt(key, PutOutcome.WON, table.num_rows, len(data), digest, digest)
    kept = {"num-rows": str(table.num_rows)}
    outcome = storage.put_if_absent(key, data, attempt=attempt, digest=digest, metadata=kept)
    if outcome is not PutOutcome.LOST:
        return replace(receipt, outcome=outcome)
    # A store without metadata compares bytes, and those hold the attempt.
    stored = check_part(storage, key, task_id)
    if stored.digest == digest:
        return replace(receipt, outcome=PutOutcome.ALREADY_SAME)
    return replace(receipt, outcome=PutOutcome.LOST, stored_digest=stored.digest)


def check_part(storage: Storage, key: str, task_id: str | None = None) -> PartInfo:
    """Return what the footer of the part says; reads the end of the object only.

    Raises `CorruptPartError` when it does not open or belongs to another task than `task_id`,
    `NewerPartError` when a newer version wrote it, `ObjectNotFoundError` when it is not there.
    """
    tail = storage.read_tail(key, _TAIL_BYTES)
    footer_bytes = int.from_bytes(tail[-_FRAME_BYTES:-4], "little") + _FRAME_BYTES
    if tail.endswith(b"PAR1") and len(tail) == _TAIL_BYTES < footer_bytes:
        tail = storage.read_tail(key, footer_bytes)
    try:
        footer = pq.read_metadata(pa.BufferReader(tail))
    except (pa.ArrowException, OSError) as error:
        raise CorruptPartError(
            f"{storage.uri_of(key)} is not a complete Parquet file; delete it to have it recomputed"
        ) from error
    info = _info(storage.uri_of(key), key, footer)
    if task_id is not None and info.task_id != task_id:
        raise CorruptPartError(
            f"{storage.uri_of(key)} belongs to task {info.task_id}, not {task_id}; delete it to "
            "have it recomputed"
        )
    return info


def read_part(storage: Storage, key: str, task_id: str | None = None) -> pa.Table:
    """Return the table as it was committed, after checking every row against the digest.

    Raises as `check_part` does, and `CorruptPartError` when the rows are not those of the digest.
    """
    info = check_part(storage, key, task_id)
    data = pa.BufferReader(storage.read(key))
    try:
        table = pq.ParquetFile(data, page_checksum_verification=True).read(use_threads=False)
        digest = table_digest(table)
    except (pa.ArrowException, OSError, TypeError) as error:
        raise CorruptPartError(
            f"{storage.uri_of(key)} cannot be read; delete it to have it recomputed"
        ) from error
    if digest != info.digest:
        raise CorruptPartError(
            f"{storage.uri_of(key)} has rows with digest {digest[:12]}, but its footer says "
            f"{info.digest[:12]}; delete it to have it recomputed"
        )
    return table.replace_schema_metadata(info.metadata or None)


def check_parts(
    storage: Storage,
    task_ids: Mapping[str, str],
    num_threads: int = 16,
    *,
    reads_rows: bool = False,
) -> tuple[dict[str, PartInfo], dict[str, CorruptPartError]]:
    """Check the parts {key: task id}; return (good, bad), each in the order given.

    A part that is not there is bad. Raises `StorageUnavailableError`. `reads_rows`: hold every row
    against the digest, and do not only read the footer.
    """

    def check(key: str) -> PartInfo | CorruptPartError:
        try:
            info = check_part(storage, key, task_ids[key])
            if reads_rows:
                read_part(storage, key, task_ids[key])
            return info
        except CorruptPartError as error:
            return error
        except ObjectNotFoundError as error:
            return CorruptPartError(str(error))

    def check_some(keys: Sequence[str]) -> list[PartInfo | CorruptPartError]:
        return [check(key) for key in keys]

    keys = list(task_ids)
    # One by one, handing keys to threads would cost more than looking at a local part.
    chunks = [keys[at : at + _KEYS_PER_CALL] for at in range(0, len(keys), _KEYS_PER_CALL)]
    good: dict[str, PartInfo] = {}
    bad: dict[str, CorruptPartError] = {}
    with thread_pool(num_threads) as pool:
        found = chain.from_iterable(pool.imap(check_some, chunks))
        for key, info in zip(keys, found, strict=True):
            if isinstance(info, PartInfo):
                good[key] = info
            else:
                bad[key] = info
    return good, bad


def _serialise(table: pa.Table, *, task_id: str, attempt: str, digest: str) -> bytes:
    metadata = _decode(table.schema.metadata) | {
        f"{_OWN}schema_version": str(SCHEMA_VERSION),
        f"{_OWN}task_id": task_id,
        f"{_OWN}attempt": attempt,
        f"{_OWN}num_rows": str(table.num_rows),
        f"{_OWN}digest": digest,
    }
    # Chunks and the order of metadata would show in the bytes.
    whole = table.combine_chunks().replace_schema_metadata(dict(sorted(metadata.items())))
    sink = pa.BufferOutputStream()
    pq.write_table(
        whole,
        sink,
        row_group_size=_ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=3,
        write_page_checksum=True,
        use_compliant_nested_type=False,  # keeps the names inside lists as they are
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _info(uri: str, key: str, footer: pq.FileMetaData) -> PartInfo:
    said = _decode(footer.metadata)
    own = {name.removeprefix(_OWN): said.pop(name) for name in list(said) if name.startswith(_OWN)}
    said.pop("ARROW:schema", None)
    try:
        version = int(own["schema_version"])
        # Of a newer version, only this number is understood.
        if version <= SCHEMA_VERSION:
            num_rows = int(own["num_rows"])
            info = PartInfo(
                key, own["task_id"], own["attempt"], version, num_rows, own["digest"], said
            )
    except (KeyError, ValueError) as error:
        raise CorruptPartError(f"{uri} is a Parquet file but not a part of a sweep") from error
    if version > SCHEMA_VERSION:
        raise NewerPartError(
            f"{uri} has schema version {version}, but this steersweep reads versions up to "
            f"{SCHEMA_VERSION}; use a newer steersweep"
        )
    if num_rows != footer.num_rows:
        raise CorruptPartError(f"{uri} has {footer.num_rows} rows, but its footer says {num_rows}")
    return info


def _decode(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in (metadata or {}).items()}
