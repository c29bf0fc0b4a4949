"""Verdicts that were paid for, kept in the run's storage: none is asked for twice.

Each verdict is stored before it counts, alone or with those that came while the one before was
being written. So a process that is killed loses no more than the requests under way. Small parts
are packed into larger ones now and then; a part that is there twice does no harm.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Mapping, Sequence

import pyarrow as pa

from cluster.errors import CorruptPartError, NewerPartError, ObjectNotFoundError
from cluster.parts import commit_part, read_part
from cluster.storage import Storage
from cluster.threads import thread_pool
from jobs.persona.judges.base import Verdict

PREFIX = "judge/replies/"
_PACK = "pack-"
_MOST_SMALL_PARTS = 256
_THREADS = 16
_TASK_ID = "judge-replies"

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("judge", pa.string()),
        ("subject", pa.string()),
        ("outcome", pa.string()),
        ("score", pa.float64()),
        ("said", pa.string()),
        ("num_tokens_in", pa.int64()),
        ("num_tokens_out", pa.int64()),
    ]
)
_VERDICT_COLUMNS = ("outcome", "score", "said", "num_tokens_in", "num_tokens_out")

logger = logging.getLogger(__name__)


class ReplyStore:
    """Verdicts by key, as ``jobs.identity.digest`` gives it, below ``judge/replies/``."""

    def __init__(self, storage: Storage, judge: str) -> None:
        """Read what is there.

        Raises:
            StorageUnavailableError: the store cannot be read.
            NewerPartError: a newer version wrote it.
        """
        self._storage, self._judge = storage, judge
        self._small: dict[str, pa.Table] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._pending: dict[str, tuple[str, Verdict]] = {}
        self._writing = asyncio.Lock()
        keys = [entry.key for entry in storage.list(PREFIX)]
        with thread_pool(_THREADS) as pool:
            for key, table in zip(keys, pool.imap(self._read, keys), strict=True):
                if table is not None:
                    self._take(key, table)

    def __len__(self) -> int:
        return len(self._verdicts)

    def get(self, key: str) -> Verdict | None:
        """The verdict stored under the key."""
        return self._verdicts.get(key)

    async def put(self, key: str, subject: str, verdict: Verdict) -> None:
        """Store a verdict; returns when it is there.

        Raises:
            StorageUnavailableError: it could not be stored.
        """
        self._pending[key] = (subject, verdict)
        async with self._writing:
            if key in self._pending:  # else somebody else's write took it along
                batch, self._pending = self._pending, {}
                await asyncio.to_thread(self._write, batch)

    def begin(self) -> None:
        """Verdicts are put from another event loop than before; locks belong to one."""
        self._writing, self._pending = asyncio.Lock(), {}

    def pack(self, fewest: int = 2) -> None:
        """Make one part of the small ones, where there are at least so many."""
        if len(self._small) < fewest:
            return
        small, self._small = self._small, {}
        self._commit(_PACK, pa.concat_tables(small.values()))
        with thread_pool(_THREADS) as pool:
            list(pool.imap(self._storage.delete, small))

    def _write(self, batch: Mapping[str, tuple[str, Verdict]]) -> None:
        table = pa.Table.from_pylist(
            [
                {
                    "key": key,
                    "judge": self._judge,
                    "subject": subject,
                    **{name: getattr(verdict, name) for name in _VERDICT_COLUMNS},
                }
                for key, (subject, verdict) in batch.items()
            ],
            schema=_SCHEMA,
        )
        self._take(self._commit("", table), table)
        self.pack(fewest=_MOST_SMALL_PARTS)

    def _commit(self, kind: str, table: pa.Table) -> str:
        # The same verdicts come to the same name, whatever was interrupted.
        name = hashlib.sha256("\n".join(sorted(table["key"].to_pylist())).encode()).hexdigest()
        key = f"{PREFIX}{kind}{name[:32]}.parquet"
        commit_part(self._storage, key, table, task_id=_TASK_ID, attempt=uuid.uuid4().hex)
        return key

    def _read(self, key: str) -> pa.Table | None:
        try:
            return read_part(self._storage, key, _TASK_ID)
        except ObjectNotFoundError:
            return None  # packed meanwhile
        except NewerPartError:
            raise
        except CorruptPartError as error:
            logger.warning("%s; its verdicts are asked for again", error)
            return None

    def _take(self, key: str, table: pa.Table) -> None:
        if not key.startswith(PREFIX + _PACK):
            self._small[key] = table
        for row in table.to_pylist():
            self._verdicts[row["key"]] = Verdict(**{name: row[name] for name in _VERDICT_COLUMNS})


def known_verdicts(store: ReplyStore | None, keys: Sequence[str]) -> dict[str, Verdict]:
    """{key: verdict} of those that are stored."""
    if store is None:
        return {}
    return {key: verdict for key in keys if (verdict := store.get(key)) is not None}
