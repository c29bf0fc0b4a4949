"""The results of a choices sweep as pandas frames."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
import pyarrow as pa

from jobs.choices.output import ChoicesOutput
from jobs.choices.own_data import ChoicesData
from jobs.choices.report import ONLY_WITH_ROWS, side_effects_of, summary_tables
from jobs.choices.resolve import AXES
from jobs.choices.stored import StoredRows
from jobs.data_source import DataSource
from jobs.results import FlatRows, Results
from jobs.scoring.choice_rows import EXAMPLES_SCHEMA, ChoiceRows
from jobs.scoring.flat import FlatLayout, flat_tables
from jobs.scoring.frames import rows_frame, vectors_frame
from jobs.side_effects.flat import flat_rows
from jobs.side_effects.stored import StoredSideEffects


class ChoicesResults(Results):
    """Tables of one output of ``job: choices``; docs/choices.md says more of them."""

    tables = (
        "baseline",
        "steered",
        "held_out",
        "cells",
        "pooled",
        "null_tests",
        "side_effects",
        "vectors",
        "examples",
    )
    _in_every_summary = frozenset({"baseline", "cells", "pooled", "metrics"})

    def __init__(self, output: ChoicesOutput) -> None:
        super().__init__(output.storage, output.record or {})
        self._output = output

    @cached_property
    def baseline(self) -> pd.DataFrame:
        """Scores before steering: a row per model and example.

        ``example_id``, ``group_*``; of each candidate, as lists: ``labels``, ``scores`` (mean
        log-likelihood in nats per token), ``sums`` (total), ``num_tokens``, ``num_chars``;
        ``choice`` (label of the largest sum), ``choice_index``; ``model``, ``fit``.
        """
        return self._rows("baseline")

    @cached_property
    def steered(self) -> pd.DataFrame:
        """Scores after steering: a row per example, layer and coefficient.

        The columns of ``baseline``, and ``layer`` (1-based), ``coeff``, ``read``, ``apply``; and
        ``kl`` (nats per scored token) of a sweep with ``measures: [kl]``.
        """
        return self._rows("steered", is_steered=True)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """As ``steered``, with vectors that were fitted to other examples."""
        return self._rows("held_out", is_steered=True)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Effects of steering: a row per fit, layer and coefficient.

        ``gap`` (mean score of the contrast's positive candidates minus that of its negative ones)
        and every metric of the data set, after steering and as ``_change``, each with ``_low`` and
        ``_high`` (95 %); ``summary["metrics"]`` says what they are.
        """
        return self.summary["cells"]

    @cached_property
    def pooled(self) -> pd.DataFrame:
        """The columns of cells, over all fits (``fit`` is null) and over layers (``layer`` is)."""
        return self.summary["pooled"]

    @cached_property
    def null_tests(self) -> pd.DataFrame:
        """Ranks of the fitted vectors' effects among draws of nulls; no rows without nulls."""
        return self.summary.get("null_tests", pd.DataFrame())

    @cached_property
    def vectors(self) -> pd.DataFrame:
        """Steering vectors: a row per fit, layer and fold.

        ``fold`` is null for the vector of all examples; ``vector`` is a float32 array [d_model].
        """
        return vectors_frame(self._output.inventory.vectors, AXES)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """The texts behind the ids: a row per example.

        Raises:
            UserError: they are lost.
        """
        frame: pd.DataFrame = self._output.texts.to_pandas(maps_as_pydicts="strict")
        return frame

    def flat_rows(self) -> FlatRows:
        """All rows with texts: baseline, steered, then nulls."""
        texts = self._output.texts
        layout = FlatLayout(
            rows=self._schema(is_steered=True),
            axes=AXES,
            names=("example_id", *(f"group_{key}" for key in self._group_keys)),
            texts=[EXAMPLES_SCHEMA.field(name) for name in ("prompt", "candidates", "cluster")],
        )
        inventory = self._output.inventory
        return FlatRows(
            schema=layout.schema,
            num_rows=inventory.num_own_rows_done,
            tables=flat_tables(self._storage, inventory, texts, layout),
            source=DataSource.of(texts),
        )

    def flat_side_effects(self) -> FlatRows:
        """See ``Results``; the sweep's own rows are in the same file."""
        stored = StoredSideEffects(self._output, ChoicesData(self._output))
        if not stored.has_any:
            return super().flat_side_effects()
        return flat_rows(stored.measured(), AXES, stored.num_rows, stored.sources)

    def _computed_summary(self) -> dict[str, pd.DataFrame]:
        tables = {**summary_tables(StoredRows(self._output)), **side_effects_of(self._output)}
        return {
            name: table.to_pandas()
            for name, table in tables.items()
            if table.num_rows or name not in ONLY_WITH_ROWS
        }

    @cached_property
    def _group_keys(self) -> tuple[str, ...]:
        examples = self._output.examples.values()
        return tuple(dict.fromkeys(key for example in examples for key, _ in example.group))

    def _schema(self, *, is_steered: bool) -> pa.Schema:
        measures = self.run.get("identity", {}).get("measures", ()) if is_steered else ()
        return ChoiceRows(self._group_keys).rows_schema(measures)

    def _rows(self, table: str, *, is_steered: bool = False) -> pd.DataFrame:
        schema = self._schema(is_steered=is_steered)
        return rows_frame(self._storage, self._output.inventory, table, schema, AXES)
