"""Results and the flat export of a choices sweep, from an output that is made up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cluster.storage import StorageSpec
from jobs.choices.results import ChoiceResults
from jobs.choices.stored import Part, RowsTable
from jobs.choices.tables import examples_table
from tests.support.choice_results import ROWS, examples, pushed, scores_of, tables


class Made:
    """Two fits, one cell, one draw."""

    rows_schema = ROWS.schema(["kl"])

    def parts(self, table: RowsTable) -> Iterator[Part]:
        cell = {"layer": 3, "coeff": 2.0, "read": "blocks.2.resid_post"}
        for fit in ("work", "home"):
            found, rng = examples(fit, 4), np.random.default_rng(0)
            before = scores_of(found, rng)
            if table == "baseline":
                yield Part("base", fit, ROWS.table(found, before, "t"))
            elif table != "held_out":
                rows = ROWS.table(found, pushed(before, found, 1.0, rng), "t", cell)
                null = ("random", "in_sample", 0) if table == "nulls" else (None, None, None)
                yield Part("base", fit, rows, *null)

    def num_rows(self) -> int:
        return 24

    def examples(self) -> pa.Table:
        found = [example for fit in ("work", "home") for example in examples(fit, 4)]
        return examples_table(found, {"license": "mit", "source": "made up"})

    def vectors(self) -> pd.DataFrame:
        return pd.DataFrame({"model": ["base"], "layer": [3]})

    def summarise(self) -> Mapping[str, pa.Table]:
        return tables(num_draws=0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ChoiceResults:
    storage = StorageSpec(str(tmp_path_factory.mktemp("made"))).open()
    return ChoiceResults(storage, {"outcome": "done"}, Made())


def test_frames_have_models_and_fits(results: ChoiceResults) -> None:
    assert results.baseline.groupby(["model", "fit"]).size().tolist() == [4, 4]
    assert results.steered["coeff"].unique().tolist() == [2.0]
    assert results.steered["kl"].notna().all()
    assert results.held_out.empty and "scores" in results.held_out
    assert len(results.cells) == 8
    assert results.pooled["fit"].isna().any()
    assert len(results.vectors) == 1
    assert results.examples["group"][0] == {"topic": "work", "kind": "even"}
    assert "cells" in repr(results.read_all())


def test_the_flat_file_has_texts_and_what_paths_say(results: ChoiceResults) -> None:
    flat = results.flat_rows()
    whole = pa.concat_tables(list(flat.tables))
    assert len(whole) == flat.num_rows
    assert whole.schema == flat.schema
    assert whole["table"].value_counts().to_pylist() == [
        {"values": name, "counts": 8} for name in ("baseline", "steered", "nulls")
    ]
    for row in whole.to_pylist():
        assert row["prompt"] == f"Question {row['example_id'].split('-')[1]}?"
        assert len(row["candidates"]) == len(row["scores"])
        is_null = row["table"] == "nulls"
        assert (row["null"], row["draw"]) == (("random", 0) if is_null else (None, None))
        assert row["group_topic"] == row["fit"]
        assert (row["kl"] is None) == (row["table"] == "baseline")
    assert flat.source.license == "mit"
