"""Results of a run for a notebook: everything that an output holds, as pandas frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage
from jobs.data_source import DataSource
from steersweep.errors import UserError


@dataclass(frozen=True)
class FlatRows:
    """All rows of an output with the texts behind their ids, for ``steersweep export``.

    Attributes:
        num_rows: how many ``tables`` will yield in all.
        tables: each of ``schema``, small enough to be held in memory.
        source: of the texts.
        without_texts: why the texts are null; empty if they are there.
    """

    schema: pa.Schema
    num_rows: int
    tables: Iterator[pa.Table]
    source: DataSource
    without_texts: str = ""


class Results(ABC):
    """Tables of one output. Each is read when it is first used, and then kept.

    The rows are those of the tasks that were finished when the output was opened. Each part that
    is read is checked against its digest. Nothing is ever written.

    Attributes:
        uri: the output.
        run: what ``run.json`` says (spec, versions, sessions); empty if that file is lost.
    """

    tables: tuple[str, ...]
    """Names of the tables, each an attribute."""
    _in_every_summary: frozenset[str] = frozenset()
    "Tables that a report always writes; a summary without them is one that it has not finished."

    def __init__(self, storage: Storage, record: Mapping[str, Any]) -> None:
        self._storage = storage
        self.uri = storage.uri
        self.run = dict(record)

    @property
    def outcome(self) -> str:
        """How the last session ended: done, failed tasks, interrupted, stopped, or running."""
        return str(self.run.get("outcome", "unknown"))

    @cached_property
    def summary(self) -> dict[str, pd.DataFrame]:
        """All tables of summary/ by name, as the last report wrote them.

        If there is no summary yet, it is computed from the rows, which can take a minute.
        """
        stored = {
            entry.key.removeprefix("summary/").removesuffix(".parquet"): entry.key
            for entry in self._storage.list("summary/")
            if entry.key.endswith(".parquet")
        }
        if not stored or not self._in_every_summary <= stored.keys():
            return self._computed_summary()
        return {name: self._stored_table(key) for name, key in stored.items()}

    @cached_property
    def side_effects(self) -> pd.DataFrame:
        """What else steering moved: a row per steering and measure.

        ``kind``, ``set``, ``group``, ``metric``; ``before``, ``after``, ``change`` with
        ``change_low`` and ``change_high`` (95 %, for one number alone); ``is_clear`` and ``p`` hold
        for all changes of a model together. No rows if the sweep has no ``side_effects``.
        """
        return self.summary.get("side_effects", pd.DataFrame())

    def read_all(self) -> Self:
        """Read every table now, so that a damaged one is found at once; returns itself.

        The texts (``examples``) are left out: outputs of earlier versions may not have them.
        """
        for name in self.tables:
            if name != "examples":
                getattr(self, name)
        return self

    @abstractmethod
    def flat_rows(self) -> FlatRows:
        """All rows of the output in one layout, for ``steersweep export``."""

    def flat_side_effects(self) -> FlatRows:
        """All rows that say what else steering moved, for ``steersweep export --side-effects``.

        Raises:
            UserError: the output has none.
        """
        raise UserError(f"{self.uri} measures no side effects")

    @abstractmethod
    def _computed_summary(self) -> dict[str, pd.DataFrame]: ...

    def _stored_table(self, key: str) -> pd.DataFrame:
        try:
            table = pq.read_table(pa.BufferReader(self._storage.read(key)))
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{self._storage.uri_of(key)} cannot be read; `steersweep report {self.uri}` "
                "writes it again"
            ) from error
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def _about(self, name: str) -> str:
        """What a row of a table is, in one line."""
        return (getattr(type(self), name).__doc__ or "").partition("\n")[0]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} of {self.uri} ({self.outcome})"]
        for name in (*self.tables, "summary"):
            told = self._about(name)
            table = self.__dict__.get(name)
            rows = f"{len(table):,} rows" if isinstance(table, pd.DataFrame) else ""
            lines.append(f"  .{name:<13} {told.rstrip('.').replace('``', ''):<60} {rows}".rstrip())
        return "\n".join(lines)
