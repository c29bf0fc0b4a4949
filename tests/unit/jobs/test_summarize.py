"""``steersweep.summarize``: the tables of a run from its frames, and what it refuses."""

from __future__ import annotations

import pandas as pd
import pytest

import steersweep
from steersweep.errors import UserError
from tests.support.stored_outputs import STORED_OUTPUTS

KEYS = ["model", "split", "bias_type", "layer", "coeff"]


@pytest.fixture(scope="module")
def results() -> steersweep.StereoSetResults:
    found = steersweep.load(STORED_OUTPUTS / "stereoset")
    assert isinstance(found, steersweep.StereoSetResults)
    return found


def test_it_makes_the_tables_of_the_run(results: steersweep.StereoSetResults) -> None:
    made = steersweep.summarize(results.baseline, results.steered, vectors="in_sample")
    wanted = results._computed_summary()
    for name in ("cells", "pooled", "headline"):
        pd.testing.assert_frame_equal(made[name], wanted[name])
    assert len(made["headline"]) > 0


def test_filtered_rows_are_summarized_again(results: steersweep.StereoSetResults) -> None:
    rows = results.steered.query("bias_type == 'gender' and layer == 4")
    made = steersweep.summarise(results.baseline, rows, vectors="in_sample")
    assert set(made["cells"]["bias_type"]) == {"gender"}
    whole = results._computed_summary()["cells"].query("bias_type == 'gender' and layer == 4")
    assert made["cells"]["s2a"].tolist() == whole["s2a"].tolist()
    kept = results.baseline["example_id"].iloc[1:]
    fewer = rows[rows["example_id"].isin(kept)]
    made = steersweep.summarize(results.baseline, fewer, vectors="in_sample")
    assert made["cells"]["num_examples"].min() < whole["num_examples"].min() + 1


@pytest.mark.parametrize("column", ["target", "score_unrelated", "choice", "model"])
@pytest.mark.parametrize("frame", ["baseline", "steered"])
def test_a_missing_column_is_one_clear_error(
    results: steersweep.StereoSetResults, column: str, frame: str
) -> None:
    frames = {"baseline": results.baseline, "steered": results.steered}
    frames[frame] = frames[frame].drop(columns=column)
    with pytest.raises(UserError, match=f"the frame {frame} lacks {column}; its columns must be"):
        steersweep.summarize(**frames, vectors="in_sample")


def test_what_cannot_be_compared_is_refused(results: steersweep.StereoSetResults) -> None:
    baseline, steered = results.baseline, results.steered
    with pytest.raises(UserError, match="same examples in every cell"):
        steersweep.summarize(baseline, steered.iloc[1:], vectors="file")
    with pytest.raises(UserError, match="twice"):
        steersweep.summarize(baseline, pd.concat([steered, steered.iloc[:1]]), vectors="file")
    with pytest.raises(UserError, match="baseline lacks 1 examples"):
        steersweep.summarize(baseline.iloc[1:], steered, vectors="file")
    with pytest.raises(UserError, match="steered has rows without layer, coeff"):
        steersweep.summarize(baseline, steered.assign(layer=None, coeff=None), vectors="file")
    with pytest.raises(UserError, match="baseline has the choice 'A'; choices are stereotype"):
        steersweep.summarize(baseline.assign(choice="A"), steered, vectors="file")
    with pytest.raises(UserError, match="score_unrelated of the frame steered does not hold"):
        steersweep.summarize(baseline, steered.assign(score_unrelated="a"), vectors="file")
    with pytest.raises(UserError, match="vectors must be one of in_sample, held_out, file"):
        steersweep.summarize(baseline, steered, vectors="in sample")  # type: ignore[arg-type]
