"""``steersweep.load`` on outputs of both jobs, finished and stopped, of an earlier version."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from safetensors.numpy import load_file

import steersweep
from cluster.errors import CorruptPartError
from cluster.storage import StorageSpec
from jobs.examples_file import EXAMPLES_KEY
from jobs.sweeps import same_sweep
from steersweep.errors import UserError
from tests.support.stored_outputs import STORED_OUTPUTS, copy_stored_output
from tests.support.sweeps import read_rows, write_spec
from tests.support.sweeps import steersweep as command

ANSWER_KEY = ["model", "trait", "phase", "row_id"]
FIRST_COLUMNS = ["model", "trait", "phase", "layer", "coeff", "positions", "question", "answer",
                 "trait_score", "coherence", "row_id", "rollout", "instruction", "polarity",
                 "trait_outcome", "coherence_outcome", "ended_by"]  # fmt: skip


def stored_rows(output: Path, table: str) -> pd.DataFrame:
    """Rows of a table's parts, read with pandas alone."""
    frames = []
    for path in sorted((output / table).rglob("*.parquet")):
        partition = dict(part.split("=") for part in path.parts if "=" in part)
        frames.append(pd.read_parquet(path, partitioning=None).assign(**partition))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # stored records name their data by relative paths
    return tmp_path


@pytest.mark.parametrize("name", ["persona", "persona-stopped"])
def test_answers_are_joined_with_their_scores(name: str) -> None:
    output = STORED_OUTPUTS / name
    answers = steersweep.load(str(output)).answers
    assert list(answers.columns[: len(FIRST_COLUMNS)]) == FIRST_COLUMNS
    assert not answers.duplicated(ANSWER_KEY).any()
    wanted = stored_rows(output, "answers").merge(
        stored_rows(output, "scores"), on=ANSWER_KEY, how="left"
    )
    assert len(answers) == len(wanted) == {"persona": 48, "persona-stopped": 36}[name]
    tokens = {f"num_{of}_tokens": wanted[f"{of}_ids"].map(len) for of in ("prompt", "answer")}
    assert_frame_equal(
        answers.sort_values(ANSWER_KEY, ignore_index=True),
        wanted.assign(**tokens).sort_values(ANSWER_KEY, ignore_index=True)[answers.columns],
        check_dtype=False,
    )
    not_judged = answers["trait_outcome"].isna()
    assert not_judged.sum() == {"persona": 0, "persona-stopped": 12}[name]
    assert set(answers.loc[not_judged, "phase"]) <= {"steered"}


def test_a_persona_sweep_has_vectors_projections_and_a_summary() -> None:
    output = STORED_OUTPUTS / "persona"
    found = steersweep.load(str(output))
    for (model, trait, pooling), rows in found.vectors.groupby(["model", "trait", "pooling"]):
        tensors = load_file(output / "vectors" / model / f"{trait}.{pooling}.safetensors")
        assert {f"layer.{layer}" for layer in rows["layer"]} == set(tensors)
        assert set(rows["steers"]) == {pooling == "response_mean"}
        for row in rows.itertuples():
            np.testing.assert_array_equal(row.vector, tensors[f"layer.{row.layer}"])
    keys = [*ANSWER_KEY, "vector", "pooling", "at_layer"]
    wanted = stored_rows(output, "projections")
    assert_frame_equal(
        found.projections.sort_values(keys, ignore_index=True),
        wanted.sort_values(keys, ignore_index=True)[found.projections.columns],
        check_dtype=False,
    )
    assert set(found.summary) >= {"steered", "contrast", "projections", "cosines"}
    means = found.answers.groupby(["model", "trait", "layer", "coeff"])["trait_score"].mean()
    table = found.summary["steered"].set_index(["model", "trait", "layer", "coeff"])
    assert len(table) == 12
    for cell, score in table["trait_score"].items():
        at = cell if cell in means.index else (*cell[:2], pd.NA, cell[3])
        assert score == pytest.approx(means[at])


@pytest.mark.parametrize("name", ["stereoset", "stereoset-crossed", "stereoset-stopped"])
def test_rows_of_a_stereoset_sweep(name: str) -> None:
    output = STORED_OUTPUTS / name
    found = steersweep.load(str(output))
    keys = ["model", "split", "bias_type", "layer", "coeff", "example_id"]
    for table in ("baseline", "steered"):
        rows, wanted = (
            frame.sort_values(keys, ignore_index=True)
            for frame in (getattr(found, table), stored_rows(output, table))
        )
        assert_frame_equal(rows, wanted[rows.columns], check_dtype=False)
    done = {"stereoset": 16, "stereoset-crossed": 8, "stereoset-stopped": 4}
    assert len(found.cells) == done[name]
    assert len(found.nulls) == (108 if name == "stereoset" else 0)


def test_tables_are_read_when_they_are_used(folder: Path) -> None:
    output = copy_stored_output("stereoset", folder)
    part = next((output / "steered").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:200] + b"\0" * 8 + part.read_bytes()[208:])
    found = steersweep.load(str(output))
    assert len(found.baseline) == 12
    assert found.baseline is found.baseline
    with pytest.raises(CorruptPartError):
        found.steered  # noqa: B018
    with pytest.raises(CorruptPartError):
        found.read_all()


def test_what_is_shown_names_every_table(folder: Path) -> None:
    for name in ("stereoset", "persona-stopped"):
        found = steersweep.load(str(copy_stored_output(name, folder / name)))
        lines = repr(found).splitlines()
        outcome = "done" if name == "stereoset" else "interrupted"
        assert lines[0] == f"{type(found).__name__} of {found.uri} ({outcome})"
        shown = [line.split()[0].removeprefix(".") for line in lines[1:]]
        assert shown == [*found.tables, "summary"]
        assert set(shown) <= set(dir(found))
        assert all(getattr(type(found), table).__doc__ for table in shown)
        assert max(len(line) for line in lines[1:]) <= 80
    assert repr(found).count(" rows") == 0
    found.read_all()
    assert "36 rows" in repr(found)


def test_what_holds_no_run_is_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match="holds no run of steersweep"):
        steersweep.load(str(folder / "nothing"))
    (folder / "other").mkdir()
    (folder / "other" / "run.json").write_text('{"name": "of another tool"}')
    with pytest.raises(UserError, match="is not the record of a run"):
        steersweep.load(str(folder / "other"))
    newer = copy_stored_output("persona", folder)
    record = (newer / "run.json").read_text()
    (newer / "run.json").write_text(record.replace('"job": "persona"', '"job": "poems"'))
    with pytest.raises(UserError, match="job 'poems', which this steersweep does not know"):
        steersweep.load(str(newer))
    (newer / "run.json").unlink()
    assert len(steersweep.load(str(newer)).answers) == 48


def test_an_output_on_s3_is_loaded(s3_uri: str, s3_endpoint: str) -> None:
    output = STORED_OUTPUTS / "persona-stopped"
    storage = StorageSpec(s3_uri, s3_endpoint).open()
    for path in output.rglob("*"):
        if path.is_file():
            storage.replace(path.relative_to(output).as_posix(), path.read_bytes())
    here, there = steersweep.load(str(output)), steersweep.load(s3_uri, s3_endpoint)
    assert_frame_equal(here.answers, there.answers)
    assert_frame_equal(here.summary["contrast"], there.summary["contrast"])


def test_texts_of_an_older_output_come_from_its_data(folder: Path) -> None:
    output = copy_stored_output("stereoset-stopped", folder)
    texts = steersweep.load(str(output)).examples
    assert set(texts["split"]) == {"intersentence", "intrasentence"}
    first = texts.iloc[0]
    assert (first["target"], first["context"]) == ("nurse", "The nurse finished the night shift.")
    assert list(first["labels"]) == ["stereotype", "anti-stereotype", "unrelated"]
    assert first["candidates"][0] == "She hummed a lullaby to every patient."
    assert not (output / "examples.parquet").exists()
    assert command("report", str(output)).code == 0
    assert_frame_equal(steersweep.load(str(output)).examples, texts)


def test_texts_that_cannot_be_had_are_missed_in_one_line(folder: Path) -> None:
    output = copy_stored_output("stereoset", folder)
    record = output / "run.json"
    there = record.read_text()
    record.write_text(there.replace("embedded:examples.json", "gone.json"))
    with pytest.raises(UserError, match=r"has no examples\.parquet .*gone\.json: no such"):
        steersweep.load(str(output)).examples  # noqa: B018
    assert command("report", str(output)).code == 0
    assert not (output / "examples.parquet").exists()
    digest = there.split('"data (content)": "')[1][:64]
    record.write_text(there.replace(digest, "0" * 64))
    with pytest.raises(UserError, match="has changed since the run"):
        steersweep.load(str(output)).examples  # noqa: B018


def test_prompts_of_an_older_persona_output_are_those_of_its_answers(folder: Path) -> None:
    output = copy_stored_output("persona", folder)
    texts = steersweep.load(str(output)).examples
    assert len(texts) == 2 * (2 * 3 * 2 + 2)
    assert command("report", str(output)).code == 0
    written = (output / "examples.parquet").read_bytes()
    assert_frame_equal(steersweep.load(str(output)).examples, texts)
    finished = command("run", "persona.yaml")
    assert finished.code == 0, finished
    assert (output / "examples.parquet").read_bytes() == written, "the run makes another table"


def test_a_run_stores_its_texts_and_adds_those_of_a_larger_grid(folder: Path) -> None:
    def run(*bias_types: str) -> pd.DataFrame:
        spec = write_spec(
            folder / "sweep.yaml",
            data={"path": "embedded:examples.json", "splits": ["intersentence"],
                  "bias_types": list(bias_types), "limit": 3},
            steering={"layers": [1], "coeffs": [1]},
        )  # fmt: skip
        finished = command("run", str(spec))
        assert finished.code == 0, finished
        return pd.read_parquet(folder / "out" / "examples.parquet")

    first = run("race")
    both = run("race", "gender")
    assert list(both["bias_type"]) == ["gender"] * 3 + ["race"] * 3
    assert_frame_equal(both[both["bias_type"] == "race"].reset_index(drop=True), first)
    rows = read_rows(str(folder / "out"), "baseline")
    assert set(rows["example_id"]) == set(both["example_id"])
    for path in (folder / "out").iterdir():  # all that a user may delete and run again
        if path.name != EXAMPLES_KEY:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert_frame_equal(run("race"), first)
    assert EXAMPLES_KEY in same_sweep._OF_ANY_JOB
