"""``report --compare`` and ``--by`` of persona sweeps, on a stored output and changed copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import steersweep as steersweep_api
from jobs.persona.comparison import _differences
from tests.support.stored_outputs import copy_stored_output
from tests.support.sweeps import change_part, steersweep

SHIFT = 7.5


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return copy_stored_output("persona-now", tmp_path)


def shifted(output: Path) -> Path:
    """A copy in which every trait score of a steered answer is higher."""
    copy = Path(shutil.copytree(output, output.parent / "shifted"))

    def higher(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("trait_score")
        scores = [None if s is None else s + SHIFT for s in table["trait_score"].to_pylist()]
        return table.set_column(at, table.field(at), pa.array(scores, pa.float64()))

    for path in copy.glob("scores/**/phase=steered/*.parquet"):
        change_part(copy, str(path.relative_to(copy)), higher)
    return copy


def test_two_runs_are_compared_cell_by_cell(stored: Path) -> None:
    other = shifted(stored)
    found = steersweep("report", str(other), "--compare", str(stored), "--no-figures")
    assert found.code == 0, found
    steered = pd.read_parquet(other / "summary" / "steered.parquet")
    compared = pd.read_parquet(other / "summary" / "compared.parquet")
    assert len(compared) == 2 * len(steered)
    assert set(compared["run"]) == {str(other), str(stored)}
    differences = pd.read_parquet(other / "summary" / "differences.parquet")
    keys = ["model", "trait", "layer", "positions", "coeff"]
    scores = differences.query("estimate == 'trait_score'")
    assert len(scores) == len(steered)
    assert set(scores[keys].apply(tuple, axis=1)) == set(steered[keys].apply(tuple, axis=1))
    assert scores["difference"].tolist() == pytest.approx([SHIFT] * len(scores))
    coherence = differences.query("estimate == 'coherence'")
    assert coherence["difference"].tolist() == pytest.approx([0.0] * len(coherence))
    assert set(differences["kind"]) == {"runs"}
    assert "paired by question and rollout" in found.out
    assert f"+{SHIFT}" in found.out
    assert "Paired by question and rollout" in (other / "report.html").read_text()
    alone = steersweep("report", str(other), "--no-figures")
    assert alone.code == 0, alone
    assert not (other / "summary" / "compared.parquet").exists()


def test_differences_are_paired_and_questions_are_clusters() -> None:
    """Two rollouts of a question move together: the interval is that of the questions' means."""
    moves = {"a": 4.0, "b": 6.0, "c": 11.0}
    rows = [
        {"model": "m", "trait": "t", "layer": 2, "coeff": 1.0, "positions": "all",
         "question": question, "rollout": rollout,
         "trait_score": 10.0 * rollout + index, "coherence": np.nan}
        for index, question in enumerate(moves) for rollout in range(2)
    ]  # fmt: skip
    theirs = pd.DataFrame(rows)
    mine = theirs.assign(trait_score=theirs["trait_score"] + theirs["question"].map(moves))
    extra = mine.iloc[:1].assign(question="asked in one run alone", trait_score=99.0)
    (found,) = _differences(pd.concat([mine, extra]).sample(frac=1, random_state=1), theirs)
    assert found["estimate"] == "trait_score"
    assert found["num_pairs"] == 6
    assert found["difference"] == pytest.approx(7.0)
    values = np.array(list(moves.values()))
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert (found["low"], found["high"]) == pytest.approx((7 - half, 7 + half), rel=1e-5)
    assert found["p"] == pytest.approx(2 / 8)


@pytest.mark.parametrize("by", ["coeff", "model,layer", "trait,coeff,positions"])
def test_by_pools_over_the_other_columns(stored: Path, by: str) -> None:
    found = steersweep("report", str(stored), "--by", by, "--no-figures", "--json")
    assert found.code == 0, found
    result = pd.DataFrame(json.loads(found.out)["result"])
    columns = by.split(",")
    assert not result[columns].duplicated().any()
    assert not {"model", "trait", "layer", "positions", "coeff"} - set(columns) & set(result)
    answers = steersweep_api.load(str(stored)).answers.query("phase == 'steered'")
    layers = answers["layer"].dropna().unique()
    repeated = [answers[answers["coeff"] != 0]]
    unsteered = answers[answers["coeff"] == 0]
    if "layer" in columns:
        repeated += [unsteered.assign(layer=layer) for layer in layers]
    else:
        repeated.append(unsteered)
    rows = pd.concat(repeated)
    if "positions" in columns:
        rows = rows.assign(positions=rows["positions"].fillna("response"))
    wanted = rows.groupby(columns)[["trait_score", "coherence"]].mean().reset_index()
    counts = rows.groupby(columns).size().tolist()
    assert result["num_answers"].tolist() == counts
    for name in ("trait_score", "coherence"):
        assert result[name].tolist() == pytest.approx(wanted[name].tolist())
        assert (result[f"{name}_low"] <= result[name]).all()
        assert (result[name] <= result[f"{name}_high"]).all()


def test_what_cannot_be_compared_is_refused(stored: Path, tmp_path: Path) -> None:
    wrong = steersweep("report", str(stored), "--by", "bias_type")
    assert wrong.code == 2
    assert "--by takes model, trait, layer, positions, coeff" in " ".join(wrong.err.split())
    (tmp_path / "more").mkdir()
    stereoset = copy_stored_output("stereoset", tmp_path / "more")
    mixed = steersweep("report", str(stored), "--compare", str(stereoset))
    assert mixed.code == 2
    assert "compare runs of the same job" in " ".join(mixed.err.split())
    nothing = steersweep("report", str(stored), "--compare", str(tmp_path / "nowhere"))
    assert nothing.code == 2
