"""Results of a StereoSet sweep as pandas frames."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import pandas as pd

from cluster.errors import CorruptPartError
from jobs.data_source import DataSource
from jobs.results import FlatRows, Results
from jobs.scoring.flat import FlatLayout, flat_tables
from jobs.scoring.frames import rows_frame, vectors_frame
from jobs.side_effects.flat import flat_rows
from jobs.side_effects.stored import StoredSideEffects
from jobs.stereoset.examples import EXAMPLES_SCHEMA, stored_examples
from jobs.stereoset.groups import AXES
from jobs.stereoset.null_tests import NULL_TESTS_SCHEMA
from jobs.stereoset.output import StereoSetOutput
from jobs.stereoset.own_data import StereoSetData
from jobs.stereoset.report import side_effects_of
from jobs.stereoset.summary import summarise
from jobs.stereoset.summary_tables import DOSE_RESPONSE_SCHEMA, nulls_schema
from jobs.stereoset.tables import StereoSetRows
from steering_core.scoring import Measure
from steersweep.errors import UserError


def flat_layout(measures: Collection[Measure] = ()) -> FlatLayout:
    """The columns of exported rows; one for each measure, null in ``baseline``."""
    return FlatLayout(
        rows=StereoSetRows().rows_schema(measures),
        axes=AXES,
        names=("example_id", "target"),
        texts=[EXAMPLES_SCHEMA.field(name) for name in ("context", "candidates", "labels")],
        text_axes=("split",),
    )


class StereoSetResults(Results):
    """Tables of one output of ``job: stereoset``; docs/results.md lists all columns."""

    tables = (
        "baseline",
        "steered",
        "cells",
        "pooled",
        "held_out",
        "headline",
        "nulls",
        "dose_response",
        "null_tests",
        "geometry",
        "side_effects",
        "vectors",
        "examples",
    )
    _in_every_summary = frozenset({"cells", "pooled", "headline", "geometry"})

    def __init__(self, output: StereoSetOutput) -> None:
        super().__init__(output.storage, output.record or {})
        self._output, self._inventory = output, output.inventory
        self._measures = tuple(self.run.get("identity", {}).get("measures", ()))

    def _rows(self, table: str, measures: Collection[Measure] = ()) -> pd.DataFrame:
        schema = StereoSetRows().rows_schema(measures)
        return rows_frame(self._storage, self._inventory, table, schema, AXES)

    @cached_property
    def baseline(self) -> pd.DataFrame:
        """Scores before steering: a row per model and example.

        ``example_id``, ``target``; ``score_stereotype``, ``score_anti_stereotype``,
        ``score_unrelated`` (mean log-likelihood in nats per scored token) and ``num_tokens_*``;
        ``choice`` (label with the highest score); ``model``, ``split``, ``bias_type``.
        """
        return self._rows("baseline")

    @cached_property
    def steered(self) -> pd.DataFrame:
        """Scores after steering: a row per example, layer and coefficient.

        The columns of ``baseline``, and ``layer`` (1-based), ``coeff``, ``read``, ``apply``; and
        ``kl`` (nats per scored token) of a sweep with ``measures: [kl]``.
        """
        return self._rows("steered", self._measures)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """As ``steered``, with vectors that were fitted to other examples.

        No rows if the sweep has no held-out vectors beside its in-sample ones; what the summary
        makes of them is in ``summary["held_out"]`` and ``summary["held_out_pooled"]``.
        """
        return self._rows("held_out")

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Effects of steering: a row per bias type, layer and coefficient.

        ``model``, ``split``, ``bias_type``, ``layer``, ``coeff``, ``num_examples``; ``s2a``,
        ``u2a``, ``s2u`` (nats per token), ``flow_*`` (shares of examples), ``lms``, ``ss``,
        ``icat`` (percent) and their changes, each with ``_low`` and ``_high`` (95 %).
        """
        return self.summary["cells"]

    @cached_property
    def pooled(self) -> pd.DataFrame:
        """The columns of cells, over bias types, splits or layers.

        ``split`` and ``bias_type`` are then ``all``, and ``layer`` is null.
        """
        return self.summary["pooled"]

    @cached_property
    def headline(self) -> pd.DataFrame:
        """The paper's headline: a row per model, split and coefficient.

        ``vectors`` (``in_sample``, ``held_out``, ``file``); ``flow_s2a``, ``flow_u2a``,
        ``flow_s2u``, ``s2a``, ``u2a``, ``s2u`` and ``anti_rise_percent``: means over layers within
        a bias type, then over bias types, all with equal weight; each with ``_low`` and ``_high``.
        """
        return self.summary["headline"]

    @cached_property
    def nulls(self) -> pd.DataFrame:
        """The columns of cells, for vectors that mean nothing.

        ``null`` says how they were drawn (``random``, ``shuffled``), ``vectors`` which fitted ones
        they stand for, ``draw`` counts them. A sweep without nulls has no rows here.
        """
        empty: pd.DataFrame = nulls_schema().empty_table().to_pandas()
        return self.summary.get("nulls", empty)

    @cached_property
    def dose_response(self) -> pd.DataFrame:
        """Examples that follow the coefficient: a row per layer.

        Of each bias type, and pooled as in ``pooled``.
        ``monotone``: the gap between anti-stereotype and stereotype rises with every step of the
        coefficient; ``monotone_against``: it falls with every step. A sweep with one coefficient
        has no rows here.
        """
        empty: pd.DataFrame = DOSE_RESPONSE_SCHEMA.empty_table().to_pandas()
        return self.summary.get("dose_response", empty)

    @cached_property
    def null_tests(self) -> pd.DataFrame:
        """Ranks of the fitted vectors' effects among draws of nulls.

        ``rank`` (1: no draw is at least as large) and ``p`` = ``rank`` / (1 + ``num_draws``) of
        ``s2a`` and ``flow_s2a``, for each cell and pooled cells.
        """
        empty: pd.DataFrame = NULL_TESTS_SCHEMA.empty_table().to_pandas()
        return self.summary.get("null_tests", empty)

    @cached_property
    def geometry(self) -> pd.DataFrame:
        """Norms and cosines of the states that vectors are made of."""
        return self.summary["geometry"]

    @cached_property
    def vectors(self) -> pd.DataFrame:
        """Steering vectors: a row per bias type, layer and fold.

        ``fold`` is null for the vector of all examples; ``vector`` is a float32 array [d_model].
        """
        return vectors_frame(self._inventory.vectors, AXES)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """The texts behind the ids: a row per example.

        ``example_id`` (unique within a split), ``split``, ``bias_type``, ``target``, ``context``,
        ``candidates`` and ``labels`` (three each, in the order of the data file; ``choice_index``
        counts them from 0). An output of an earlier version has no texts; they are then read from
        its data file.

        Raises:
            UserError: no texts are stored, and the data file is not here or has changed.
        """
        frame: pd.DataFrame = stored_examples(self._storage, self._inventory, self.run).to_pandas()
        return frame

    def flat_rows(self) -> FlatRows:
        """All rows with texts: baseline, steered, then nulls (``jobs.scoring.flat``)."""
        layout = flat_layout(self._measures)
        examples, source, reason = None, DataSource("unknown", "no texts"), ""
        try:
            examples = stored_examples(self._storage, self._inventory, self.run)
            source = DataSource.of(examples)
        except CorruptPartError:  # stored texts are damaged, which must not go unnoticed
            raise
        except UserError as error:
            reason = str(error)
        return FlatRows(
            schema=layout.schema,
            num_rows=self._inventory.num_own_rows_done,
            tables=flat_tables(self._storage, self._inventory, examples, layout),
            source=source,
            without_texts=reason,
        )

    def flat_side_effects(self) -> FlatRows:
        """See ``Results``; the sweep's own rows are in the same file."""
        stored = StoredSideEffects(self._output, StereoSetData(self._output))
        if not stored.has_any:
            return super().flat_side_effects()
        return flat_rows(stored.measured(), AXES, stored.num_rows, stored.sources)

    def _computed_summary(self) -> dict[str, pd.DataFrame]:
        summary = summarise(self._storage, self._inventory)
        names = (
            "cells",
            "pooled",
            "headline",
            "findings",
            "differences",
            "held_out",
            "held_out_pooled",
            "nulls",
            "dose_response",
            "null_tests",
            "geometry",
            "baseline",
        )
        side_effects = side_effects_of(self._output)
        return {
            **{name: getattr(summary, name).to_pandas() for name in names},
            **{name: table.to_pandas() for name, table in side_effects.items() if table.num_rows},
        }
