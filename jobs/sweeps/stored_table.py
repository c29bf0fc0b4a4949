"""Tables of rows that the tasks of a sweep leave, a part for each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from cluster.parts import check_part, read_part
from cluster.storage import Storage
from jobs.identity import digest
from jobs.sweeps.job import Sweep

_DIGEST_SHOWN = 16


@dataclass(frozen=True)
class StoredTable:
    """A table of an output.

    Attributes:
        name: also of the folder that holds its parts.
        about: what a row is, in one line.
    """

    name: str
    about: str
    schema: pa.Schema

    @property
    def folder(self) -> str:
        """Where its parts are."""
        return f"{self.name}/"

    def part_key(self, sweep: Sweep, task_id: str) -> str:
        """The key of a task's part.

        The folder of the sweep's identity is part of it. So parts of two sweeps are told apart even
        if ``run.json`` is lost.
        """
        return f"{self.folder}{self.sweep_folder(sweep)}/{task_id}.parquet"

    @staticmethod
    def sweep_folder(sweep: Sweep) -> str:
        """The name of the folder of a sweep's parts."""
        return digest(sweep.identity())[:_DIGEST_SHOWN]

    def keys(self, storage: Storage) -> Iterator[str]:
        """The keys of all parts that are there."""
        for entry in storage.list(self.folder):
            if entry.key.endswith(".parquet"):
                yield entry.key

    def num_rows(self, storage: Storage) -> int:
        """Rows of all parts, from their footers.

        Raises:
            CorruptPartError: a damaged part.
        """
        return sum(check_part(storage, key).num_rows for key in self.keys(storage))

    def read_parts(self, storage: Storage) -> Iterator[pa.Table]:
        """The rows of each part, in the order of their keys.

        Raises:
            CorruptPartError: a damaged part.
        """
        for key in sorted(self.keys(storage)):
            yield read_part(storage, key, task_id_of(key)).replace_schema_metadata(None)

    def read(self, storage: Storage) -> pa.Table:
        """All rows.

        Raises:
            CorruptPartError: a damaged part.
        """
        return pa.concat_tables([self.schema.empty_table(), *self.read_parts(storage)])


Tables = Mapping[str, pa.Table]


def task_id_of(key: str) -> str:
    """The id of the task that a part belongs to, from its key."""
    return key.rpartition("/")[2].removesuffix(".parquet")
