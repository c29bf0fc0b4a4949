"""Persona sweeps through the whole pipeline, held against direct computations."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

import steersweep as steersweep_api
from jobs.persona.judges.endpoint import PROBE
from jobs.persona.judges.prompts import COHERENCE_PROMPT, fill
from jobs.sweeps.executor import Executor
from steersweep.errors import UserError
from tests.support.judge_server import JudgeServer, Reply, judge_server
from tests.support.personas import (
    KEY,
    eval_prompt,
    judge_spec,
    moody,
    save_chat_model,
    verdict_on,
    write_persona_spec,
)
from tests.support.sweeps import Finished, change_part, steersweep

TRAITS = ("kind", "sly")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def judged(
    chat: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Finished, JudgeServer]]:
    """A finished sweep, greedy, judged by a server that is not always well."""
    folder = tmp_path_factory.mktemp("persona")
    with pytest.MonkeyPatch.context() as patch, judge_server(moody()) as server:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("NO_PROXY", "*")
        spec = write_persona_spec(
            folder,
            chat,
            judge=judge_spec(server.openai_url),
            generation={"max_new_tokens": 12, "greedy": True},
            filter={"positive_at_least": 40, "negative_below": 60, "coherence_at_least": 20},
        )
        yield folder / "out", steersweep("run", str(spec)), server


def rows_of(output: Path, table: str, phase: str) -> pd.DataFrame:
    paths = sorted(output.glob(f"{table}/model=chat/trait=*/phase={phase}/*.parquet"))
    return pd.concat(
        pq.ParquetFile(path).read().to_pandas().assign(trait=path.parts[-3].split("=")[1])
        for path in paths
    )


def wanted_verdicts(row: pd.Series) -> dict[str, tuple[str, float | None]]:
    return {
        name: verdict_on(fill(prompt, row["question"], row["answer"]))
        for name, prompt in (("trait", eval_prompt(row["trait"])), ("coherence", COHERENCE_PROMPT))
    }


def test_every_answer_is_judged_as_the_server_says(
    judged: tuple[Path, Finished, JudgeServer],
) -> None:
    output, finished, server = judged
    assert finished.code == 0, finished
    outcomes = set()
    for phase, num in (("contrast", 2 * 3 * 2), ("steered", 2 * 5)):
        answers = rows_of(output, "answers", phase)
        assert len(answers) == 2 * num
        scores = rows_of(output, "scores", phase)
        for _, row in answers.merge(scores, on=["trait", "row_id"]).iterrows():
            wanted = wanted_verdicts(row)
            outcomes |= {outcome for outcome, _ in wanted.values()}
            for name, column in (("trait", "trait_score"), ("coherence", "coherence")):
                outcome, score = wanted[name]
                assert row[f"{name}_outcome"] == outcome
                assert row[column] == pytest.approx(score, nan_ok=True) if score is not None else (
                    np.isnan(row[column])
                )  # fmt: skip
    assert outcomes == {"scored", "refused", "unparsable"}
    assert all(KEY in key for key in server.keys)
    (replicas,) = json.loads((output / "run.json").read_text())["sessions"][0]["replicas"]
    assert replicas.pop("num_replicas") >= 1
    assert replicas == {"device": "cpu", "dtype": "float32", "answers": "in slots"}


def test_the_filter_keeps_the_pairs_that_pass(judged: tuple[Path, Finished, JudgeServer]) -> None:
    output, finished, _ = judged
    for trait in TRAITS:
        kept = kept_rows(output, trait)
        assert 0 < len(kept) < 12, "the test would show nothing"
        assert f"chat/{trait}: {len(kept) // 2} of 6 pairs are effective" in " ".join(
            (finished.out + finished.err).split()
        )


def test_load_gives_each_answer_once(judged: tuple[Path, Finished, JudgeServer]) -> None:
    found = steersweep_api.load(str(judged[0]))
    steered = found.answers[found.answers["phase"] == "steered"]
    unsteered = steered[steered["coeff"] == 0]
    assert len(unsteered) == len(TRAITS) * 2
    assert len(steered) == len(TRAITS) * 2 * (2 * 2 + 1)
    assert unsteered[["layer", "positions", "apply"]].isna().all(axis=None)
    cells = found.summary["steered"].query("coeff == 0")
    assert len(cells) == len(TRAITS) * 2, "the table has it at each layer"
    means = unsteered.groupby("trait")["trait_score"].mean()
    assert cells["trait_score"].tolist() == pytest.approx(cells["trait"].map(means).tolist())
    assert set(found.projections["row_id"]) == set(found.answers["row_id"])
    asked = ["trait", "phase", "instruction", "polarity", "system", "question_index", "question"]
    assert not found.examples.duplicated().any()
    assert set(found.examples[asked].astype(str).apply(tuple, axis=1)) == set(
        found.answers[asked].astype(str).apply(tuple, axis=1)
    )


def kept_rows(output: Path, trait: str) -> set[str]:
    """Ids of the rows whose pairs pass the filter, from the server's verdicts alone."""
    answers = rows_of(output, "answers", "contrast").query(f"trait == '{trait}'")
    verdicts = {row["row_id"]: wanted_verdicts(row) for _, row in answers.iterrows()}
    kept = set()
    for pair in {row_id.rsplit(".", 1)[0] for row_id in verdicts}:
        positive, negative = (verdicts[f"{pair}.{p}"] for p in ("positive", "negative"))
        scores = [positive["trait"][1], negative["trait"][1]]
        coherences = [positive["coherence"][1], negative["coherence"][1]]
        if None in scores or None in coherences:
            continue
        if scores[0] >= 40 and scores[1] < 60 and min(coherences) >= 20:
            kept |= {f"{pair}.positive", f"{pair}.negative"}
    return kept


def states_of(chat: Path, row: pd.Series) -> dict[str, np.ndarray]:
    """Pooled states [L, D] of an answer by transformers' own forward."""
    model = AutoModelForCausalLM.from_pretrained(chat, dtype=torch.float32)
    ids = [*row["prompt_ids"], *row["answer_ids"]]
    found = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: found.append(
            out[0] if isinstance(out, tuple) else out))
        for block in model.model.layers
    ]  # fmt: skip
    with torch.inference_mode():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    states = np.stack([state.reshape(len(ids), -1).double().numpy() for state in found])
    num = len(row["prompt_ids"])
    return {
        "response_mean": states[:, num:].mean(axis=1),
        "prompt_mean": states[:, :num].mean(axis=1),
        "prompt_last": states[:, num - 1],
    }


def test_vectors_projections_and_angles_are_those_of_the_states(
    chat: Path, judged: tuple[Path, Finished, JudgeServer]
) -> None:
    output, _, _ = judged
    contrast = rows_of(output, "answers", "contrast")
    vectors = {}
    for trait in TRAITS:
        kept = contrast[contrast["row_id"].isin(kept_rows(output, trait))]
        kept = kept[kept["trait"] == trait]
        states = {row["row_id"]: states_of(chat, row) for _, row in kept.iterrows()}
        for pooling in ("response_mean", "prompt_mean", "prompt_last"):
            means = [
                np.mean([s[pooling] for name, s in states.items() if name.endswith(polarity)], 0)
                for polarity in ("positive", "negative")
            ]
            stored = load_file(output / f"vectors/chat/{trait}.{pooling}.safetensors")
            wanted = means[0] - means[1]
            for layer in range(1, 5):
                np.testing.assert_allclose(stored[f"layer.{layer}"], wanted[layer - 1], atol=1e-5)
            vectors[trait, pooling] = wanted
    projections = rows_of(output, "projections", "steered").query("trait == 'kind'")
    answers = rows_of(output, "answers", "steered").query("trait == 'kind'").set_index("row_id")
    for row_id in list(answers.index[:3]):
        states = states_of(chat, answers.loc[row_id])
        for row in projections[projections["row_id"] == row_id].itertuples():
            vector = vectors[row.vector, row.pooling][row.at_layer - 1]
            unit, state = vector / np.linalg.norm(vector), states["response_mean"][row.at_layer - 1]
            assert row.response_mean == pytest.approx(state @ unit, abs=1e-4)
            assert row.cosine == pytest.approx(state @ unit / np.linalg.norm(state), abs=1e-5)
            last = states["prompt_last"][row.at_layer - 1]
            assert row.prompt_last == pytest.approx(last @ unit, abs=1e-4)
    angles = pd.read_parquet(output / "summary" / "cosines.parquet")
    for row in angles.itertuples():
        one, two = (
            vectors[name, "response_mean"][row.layer - 1] for name in (row.trait, row.other)
        )
        wanted = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        assert row.cosine == pytest.approx(wanted, abs=1e-5)
    assert len(angles) == 4 * 3


def test_the_steered_table_is_that_of_the_scores(
    judged: tuple[Path, Finished, JudgeServer],
) -> None:
    output, _, _ = judged
    steered = pd.read_parquet(output / "summary" / "steered.parquet")
    rows = rows_of(output, "answers", "steered").merge(
        rows_of(output, "scores", "steered"), on=["trait", "row_id"]
    )
    assert len(steered) == 2 * 6
    for cell in steered.itertuples():
        layer = "layer.isna()" if cell.coeff == 0 else f"layer == {cell.layer}"
        of = rows.query(f"trait == '{cell.trait}' and {layer} and coeff == {cell.coeff}")
        assert cell.num_answers == len(of) == 2
        assert cell.num_empty == (of["answer"] == "").sum()
        assert cell.trait_score == pytest.approx(of["trait_score"].mean(), nan_ok=True)
        assert cell.num_trait_refused == (of["trait_outcome"] == "refused").sum()
        assert cell.num_coherence_unparsable == (of["coherence_outcome"] == "unparsable").sum()
        assert cell.apply == f"blocks.{cell.layer - 1}.resid_post"


def test_coefficient_0_is_the_models_own_answer(
    chat: Path, judged: tuple[Path, Finished, JudgeServer]
) -> None:
    output, _, _ = judged
    model = AutoModelForCausalLM.from_pretrained(chat, dtype=torch.float32)
    rows = rows_of(output, "answers", "steered").query("coeff == 0")
    assert len(rows) == 2 * 2
    for _, row in rows.iterrows():
        prompt = torch.tensor([list(row["prompt_ids"])])
        wanted = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
        written = wanted[0, prompt.shape[1] :].tolist()[: len(row["answer_ids"])]
        assert list(row["answer_ids"]) == written
    assert rows[["layer", "positions", "apply"]].isna().all(axis=None)
    other = rows_of(output, "answers", "steered").query("coeff == 5 and layer == 2")
    assert list(other["answer"]) != list(rows["answer"])


def test_coefficient_0_is_computed_once_and_shown_at_each_layer(
    judged: tuple[Path, Finished, JudgeServer],
) -> None:
    output, _, _ = judged
    ids = ["q0.r0.c0", "q1.r0.c0"]
    for table in ("answers", "scores", "projections"):
        rows = rows_of(output, table, "steered").query("row_id.str.endswith('.c0')")
        assert sorted(rows["row_id"].unique()) == ids
        one = rows.query("trait == 'kind' and row_id == 'q0.r0.c0'")
        # Two vectors of three poolings at four layers.
        assert len(one) == (2 * 3 * 4 if table == "projections" else 1)
    summary = {name: pd.read_parquet(output / "summary" / f"{name}.parquet")
               for name in ("steered", "projections")}  # fmt: skip
    values = ["trait_score", "trait_score_low", "coherence", "num_answers"]
    of_layers = [
        summary["steered"].query(f"coeff == 0 and layer == {layer}").reset_index(drop=True)
        for layer in (2, 3)
    ]
    assert [len(rows) for rows in of_layers] == [2, 2]
    pd.testing.assert_frame_equal(*(rows[values] for rows in of_layers))
    assert [set(rows["apply"]) for rows in of_layers] == [
        {"blocks.1.resid_post"}, {"blocks.2.resid_post"},
    ]  # fmt: skip
    baseline = summary["projections"].query("condition == 'baseline'")
    assert set(baseline["layer"]) == {2, 3}
    assert set(baseline["num_answers"]) == {2}


def test_verify_holds_answers_against_the_plain_forward(
    judged: tuple[Path, Finished, JudgeServer], tmp_path: Path
) -> None:
    output, _, _ = judged
    for source in (output, output.parent / "persona.yaml"):
        found = steersweep("verify", str(source), "--rows", "16")
        assert found.code == 0, found
        assert re.search(r"^chat +16 ", found.out, re.MULTILINE)
        assert "holds" in found.out
    copy = shutil.copytree(output, tmp_path / "out")

    def another_token(table: pa.Table) -> pa.Table:
        ids = table["answer_ids"].to_pylist()
        changed = [[(of[0] + 1) % 90, *of[1:]] if of else of for of in ids]
        at = table.schema.get_field_index("answer_ids")
        field = table.field(at)
        return table.set_column(at, field, pa.array(changed, field.type))

    for path in copy.glob("answers/model=chat/trait=sly/phase=steered/*.parquet"):
        change_part(copy, str(path.relative_to(copy)), another_token)
    broken = steersweep("verify", str(copy), "--rows", "100")
    assert broken.code == 1, broken
    assert "broken" in broken.out
    assert "chat/sly/q" in broken.err


def test_the_plan_counts_what_the_run_then_writes(
    judged: tuple[Path, Finished, JudgeServer], tmp_path: Path
) -> None:
    output, _, server = judged
    spec, numbers = str(output.parent / "persona.yaml"), tmp_path / "plan.json"
    planned = steersweep(
        "plan", spec, "--output", str(tmp_path / "new"), "--json-file", str(numbers)
    )
    assert planned.code == 0, planned
    said = " ".join(planned.out.split())
    assert "tasks of at most 8 answers (compute.examples_per_task)" in said
    assert "a replica generates 64 at a time (generation.rows_at_once)" in said
    for of in json.loads(numbers.read_text())["phases"]:
        written = rows_of(output, "answers", of["phase"]).query(f"trait == '{of['trait']}'")
        assert of["num_answers"] == of["num_left"] == len(written)
        assert of["num_prompt_tokens"] == written["prompt_ids"].map(len).sum()
        assert of["most_new_tokens"] >= written["answer_ids"].map(len).sum()
        assert of["num_queries"] == 2 * len(written)
    assert not (tmp_path / "new").exists()
    before = len(server.prompts)
    assert steersweep("plan", spec, "--json-file", str(numbers)).code == 0
    phases = json.loads(numbers.read_text())["phases"]
    assert [of["num_left"] for of in phases] == [0] * 4
    num_answers = sum(of["num_answers"] for of in phases)
    unjudged = tmp_path / "unjudged"
    shutil.copytree(output, unjudged)
    index = json.loads((unjudged / "index.json").read_text())
    (unjudged / "index.json").write_text(json.dumps(index | {"scores": []}))
    said = " ".join(steersweep("plan", spec, "--output", str(unjudged)).out.split())
    assert f"has all {num_answers} answers, which are not all judged yet." in said
    more = ["--set", "steering.coeffs=[-3, 0, 5, 7]", "--json-file", str(numbers)]
    assert steersweep("plan", spec, *more).code == 0
    left = {(of["phase"], of["num_left"] > 0) for of in json.loads(numbers.read_text())["phases"]}
    assert left == {("contrast", False), ("steered", True)}
    assert len(server.prompts) == before


def test_nothing_is_made_or_paid_for_twice(
    judged: tuple[Path, Finished, JudgeServer],
) -> None:
    output, _, server = judged
    before = len(server.prompts)
    parts = {p: p.stat().st_mtime_ns for p in output.glob("*/model=*/**/*.parquet")}
    again = steersweep("run", str(output.parent / "persona.yaml"))
    assert again.code == 0, again
    assert len(server.prompts) == before
    assert {p: p.stat().st_mtime_ns for p in output.glob("*/model=*/**/*.parquet")} == parts
    grown = steersweep(
        "run", str(output.parent / "persona.yaml"), "--set", "steering.coeffs=[-3, 0, 5, 9]"
    )
    assert grown.code == 0, grown
    new = rows_of(output, "answers", "steered").query("coeff == 9")
    assert len(new) == 2 * 2 * 2
    unsteered = rows_of(output, "answers", "steered").query("coeff == 0")
    assert len(unsteered) == 2 * 2, "these depend on no vector and on no other cell"
    # The index names the parts of the grid as it is; those of the smaller grid are left alone.
    assert len(pd.read_parquet(output / "summary" / "steered.parquet")) == 2 * 8
    assert set(parts) <= set(output.glob("*/model=*/**/*.parquet"))


@pytest.mark.parametrize(("phase", "connects"), [("steered", False), ("contrast", True)])
def test_answers_that_are_left_to_judge_need_no_cluster_unless_more_follows_from_them(
    judged: tuple[Path, Finished, JudgeServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    connects: bool,
) -> None:
    def refuse(_: Executor) -> None:
        raise UserError("this run needs a cluster")

    monkeypatch.setattr(Executor, "_connect", refuse)
    output, before = tmp_path / "out", len(judged[2].prompts)
    shutil.copytree(judged[0], output)
    scores = sorted(output.glob(f"scores/model=chat/trait=*/phase={phase}/*.parquet"))
    for path in scores:
        path.unlink()
    spec = str(judged[0].parent / "persona.yaml")
    found = steersweep(
        "run", spec, "--output", str(output), "--set", "compute.executor=ray", "--no-figures"
    )
    assert (found.code != 0) == connects, found
    assert ("this run needs a cluster" in found.err) == connects
    # Another test may have grown the grid: parts of what this spec leaves out are not made again.
    assert any(path.is_file() for path in scores) == (not connects)
    assert len(judged[2].prompts) <= before + 1, "verdicts are stored: only the probe is asked"


@pytest.mark.parametrize("num_answered", [1, 9, 60])
def test_a_judge_that_goes_away_is_paid_for_no_answer_twice(
    num_answered: int, chat: Path, tmp_path: Path
) -> None:
    """Out of credit in the middle of judging, and started again when it is there."""
    well, paid, is_down = moody(), [], True

    def answer(prompt: str, _num_before: int) -> Reply:
        if is_down and len(paid) >= num_answered:
            return 402
        paid.append(prompt)
        return well(prompt, 1)

    with judge_server(answer) as server:
        spec = write_persona_spec(
            tmp_path,
            chat,
            judge=judge_spec(server.openai_url),
            filter={"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0},
        )
        stopped = steersweep("run", str(spec))
        assert stopped.code == 2, stopped
        assert KEY not in stopped.err + stopped.out
        assert len(paid) == num_answered
        is_down = False
        finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    asked = [prompt for prompt in paid if prompt != PROBE]
    assert len(asked) == len(set(asked)) > 60
    status = steersweep("status", str(tmp_path / "out"))
    assert "all stages are done" in status.out
    for num in (12, 10):  # answers, written, judged, projected
        assert len(re.findall(rf"(?:\s+{num}\b){{4}}", status.out)) == 2


def test_a_report_of_an_unfinished_sweep_says_what_is_missing(chat: Path, tmp_path: Path) -> None:
    # One trait: of two, the run may stop before the other one is judged.
    kind = {"kind": {"path": str(tmp_path / "kind.json")}}
    spec = write_persona_spec(tmp_path, chat, traits=kind)
    refused = steersweep("run", str(spec))  # words decide: no pair of random text is effective
    assert refused.code == 2
    assert "no pair is left to make a vector from" in " ".join(refused.err.split())
    report = steersweep("report", str(tmp_path / "out"))
    assert report.code == 0, report
    assert "not complete yet (vectors missing)" in " ".join(report.err.split())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not complete" in page
    assert "Still to come: vectors" in page
    contrast = pd.read_parquet(tmp_path / "out" / "summary" / "contrast.parquet")
    assert set(contrast["polarity"]) == {"positive", "negative"}


@pytest.mark.nightly  # tests/contract/test_jobs.py kills a run of every job
def test_killed_at_every_stage_it_ends_with_the_rows_of_an_undisturbed_run(
    chat: Path, tmp_path: Path
) -> None:
    words = {"kind": "word_list", "words": {name: ["a", "e", "i"] for name in TRAITS}}
    passing = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}
    spec = write_persona_spec(tmp_path, chat, judge=words, filter=passing)
    output = tmp_path / "out"
    for place in ("scores/**/*.parquet", "sums/**/*.parquet", "scores/**/phase=steered/*.parquet"):
        driver = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "run", str(spec)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        began = time.monotonic()
        while not any(output.glob(place)):
            assert driver.poll() is None, "ended before it had begun"
            assert time.monotonic() < began + 120
            time.sleep(0.01)
        driver.kill()
        driver.wait()
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    undisturbed = steersweep("run", str(spec), "--output", str(tmp_path / "undisturbed"))
    assert undisturbed.code == 0, undisturbed
    for table in ("answers", "scores", "projections"):
        for phase in ("contrast", "steered"):
            frames = [
                rows_of(folder, table, phase).sort_values("row_id", kind="stable")
                for folder in (output, tmp_path / "undisturbed")
            ]
            pd.testing.assert_frame_equal(*frames)


def test_a_lost_record_costs_nothing_and_a_foreign_folder_is_refused(
    chat: Path, tmp_path: Path
) -> None:
    passing = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}
    spec = write_persona_spec(tmp_path, chat, filter=passing)
    assert steersweep("run", str(spec)).code == 0
    parts = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/model=*/**/*.parquet")}
    (tmp_path / "out" / "run.json").unlink()
    assert steersweep("run", str(spec)).code == 0
    found = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/model=*/**/*.parquet")}
    assert found == parts
    changed = steersweep("run", str(spec), "--set", "generation.seed=1")
    assert changed.code == 2
    assert "generation.seed: 0 -> 1" in " ".join(changed.err.split())
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    refused = steersweep("run", str(spec), "--output", str(tmp_path / "foreign"))
    assert refused.code == 2
    assert "it contains thesis.tex" in " ".join(refused.err.split())
    assert [p.name for p in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("lost", [None, "rows_per_task", "run.json", "index.json"])
def test_an_output_keeps_the_size_of_its_tasks_on_another_device(
    lost: str | None, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun with 128 answers a task; a new output on CUDA has 1,024."""
    passing = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}
    words = {"kind": "word_list", "words": {name: ["a", "e", "i"] for name in TRAITS}}
    spec = str(
        write_persona_spec(
            tmp_path, chat, judge=words, filter=passing,
            models={"chat": {"path": str(chat), "dtype": "float32"}},
            generation={"max_new_tokens": 1},
            contrast={"rollouts": 11},
            steering={"layers": [2], "coeffs": [1], "questions": 1},
            compute={"executor": "in_process"},
        )
    )  # fmt: skip
    assert steersweep("run", spec).code == 0
    output = tmp_path / "out"
    sizes = rows_of(output, "answers", "contrast").groupby(["trait", "task_id"]).size()
    assert sorted(sizes) == [4, 4, 128, 128]
    before = sorted(output.glob("*/model=*/**/*.parquet"))

    record = json.loads((output / "run.json").read_text())
    assert record["rows_per_task"] == 128
    if lost == "rows_per_task":  # as an earlier version left them
        for name in ("run.json", "index.json"):
            content = json.loads((output / name).read_text())
            del content[lost]
            (output / name).write_text(json.dumps(content))
    elif lost is not None:
        (output / lost).unlink()
    # No replica could be started there: whatever is not found under its id fails.
    monkeypatch.setattr("jobs.sweeps.executor.Executor.device", lambda self: "cuda")
    again = steersweep("run", spec)
    assert again.code == 0, again
    assert sorted(output.glob("*/model=*/**/*.parquet")) == before
    assert json.loads((output / "run.json").read_text())["rows_per_task"] == 128


def test_a_model_that_cannot_be_written_in_slots_is_named_in_a_warning(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.persona.worker.slots_problem", lambda model: "a reason")
    passing = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}
    words = {"kind": "word_list", "words": {name: ["a", "e", "i"] for name in TRAITS}}
    spec = write_persona_spec(
        tmp_path, chat, judge=words, filter=passing, generation={"max_new_tokens": 1}
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished
    said = " ".join(finished.err.split())
    wanted = f"answers are generated one at a time ({chat}: a reason); that is many times slower"
    assert said.count(wanted) == 1
    (replicas,) = json.loads((tmp_path / "out" / "run.json").read_text())["sessions"][0]["replicas"]
    assert replicas["answers"] == f"one at a time ({chat}: a reason)"
