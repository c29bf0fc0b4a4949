"""Results of a choices sweep as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa

from cluster.storage import Storage
from jobs.choices.flat import flat_schema, flat_tables, with_path
from jobs.choices.stored import RowsTable, StoredChoices
from jobs.data_source import DataSource
from jobs.results import FlatRows, Results


class ChoiceResults(Results):
    """Tables of one output of ``job: choices``; docs/results.md lists all columns."""

    tables = ("baseline", "steered", "held_out", "cells", "pooled", "vectors", "examples")
    _in_every_summary = frozenset({"baseline", "cells", "pooled", "metrics"})

    def __init__(self, storage: Storage, record: Mapping[str, Any], stored: StoredChoices) -> None:
        super().__init__(storage, record)
        self._stored = stored

    @cached_property
    def baseline(self) -> pd.DataFrame:
        """Scores before steering: a row per model, fit and example.

        ``example_id``, ``group_*``; ``labels``, ``scores`` (mean log-probability of a token, in
        nats), ``sums``, ``num_tokens`` and ``num_chars``, each a list with an entry for every
        candidate; ``choice`` (label of the candidate with the largest sum) and ``choice_index``.
        """
        return self._frame("baseline")

    @cached_property
    def steered(self) -> pd.DataFrame:
        """Scores after steering: a row per example, layer and coefficient.

        The columns of ``baseline``, and ``layer`` (1-based), ``coeff``, ``read``, ``apply``; and
        ``kl`` (nats per scored token) of a sweep with ``measures: [kl]``.
        """
        return self._frame("steered")

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """As ``steered``, with vectors that were fitted to other examples.

        No rows if the sweep has no held-out vectors in addition to its in-sample ones.
        """
        return self._frame("held_out")

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Effects of steering: a row per fit, layer and coefficient.

        ``gap`` (nats per token), every metric and their changes, each with ``_low`` and ``_high``
        (95 %), changes with ``_p`` and ``_q``; ``changed`` (share of examples).
        """
        return self.summary["cells"]

    @cached_property
    def pooled(self) -> pd.DataFrame:
        """The columns of cells, over all fits or layers.

        ``fit`` is null in rows over all fits, ``layer`` in means over layers.
        """
        return self.summary["pooled"]

    @cached_property
    def vectors(self) -> pd.DataFrame:
        """Steering vectors: a row per fit, layer and fold."""
        return self._stored.vectors()

    @cached_property
    def examples(self) -> pd.DataFrame:
        """The texts behind the ids: a row per example.

        ``example_id``, ``prompt``, ``candidates``, ``labels``, ``group`` and ``cluster``.
        """
        frame: pd.DataFrame = self._stored.examples().to_pandas(maps_as_pydicts="strict")
        return frame

    def flat_rows(self) -> FlatRows:
        """All rows with texts: baseline, steered, held-out, then nulls (``jobs.choices.flat``)."""
        return FlatRows(
            schema=flat_schema(self._stored.rows_schema),
            num_rows=self._stored.num_rows(),
            tables=flat_tables(self._stored),
            source=DataSource.of(self._stored.examples()),
        )

    def _computed_summary(self) -> dict[str, pd.DataFrame]:
        return {name: table.to_pandas() for name, table in self._stored.summarise().items()}

    def _frame(self, table: RowsTable) -> pd.DataFrame:
        parts = [with_path(part) for part in self._stored.parts(table)]
        path = [pa.field("model", pa.string()), pa.field("fit", pa.string())]
        # Rows of a sweep that measures have a column that its baseline has not.
        schema = pa.schema([*self._stored.rows_schema, *path])
        if not parts:
            parts = [schema.empty_table()]
        frame: pd.DataFrame = pa.concat_tables(parts, promote_options="default").to_pandas()
        return frame
