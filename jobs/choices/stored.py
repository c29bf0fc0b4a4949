"""What results and exports of a choices sweep need of its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import pandas as pd
import pyarrow as pa

RowsTable = Literal["baseline", "steered", "held_out", "nulls"]
ROWS_TABLES: tuple[RowsTable, ...] = ("baseline", "steered", "held_out", "nulls")


@dataclass(frozen=True)
class Part:
    """Stored rows, and what their path says of them.

    Attributes:
        rows: of ``ChoiceRows.schema``.
        null, vectors, draw: of rows in ``nulls`` alone.
    """

    model: str
    fit: str
    rows: pa.Table
    null: str | None = None
    vectors: str | None = None
    draw: int | None = None


class StoredChoices(Protocol):
    """An output whose plan is known. Every part that is read is checked against its digest."""

    @property
    def rows_schema(self) -> pa.Schema:
        """``ChoiceRows.schema`` of this sweep, with its measures."""

    def parts(self, table: RowsTable) -> Iterator[Part]:
        """The finished parts of a table, one at a time, in the order of the plan."""

    def num_rows(self) -> int:
        """Rows of all finished parts of all tables."""

    def examples(self) -> pa.Table:
        """``examples.parquet``, whose metadata says where the texts come from."""

    def vectors(self) -> pd.DataFrame:
        """A row per model, fit, layer and fold, with the vector as a float32 array [d_model]."""

    def summarise(self) -> Mapping[str, pa.Table]:
        """``jobs.choices.summary.summarise`` of the finished parts."""
