"""``side_effects``, ``transfer`` and ``prompts``: from a sweep file to rows and tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

import steersweep as steersweep_api
from jobs.resources import local_path, model_source
from steering_core.models import LoadedModel, load_model, load_tokenizer
from steering_core.stereoset import read_stereoset
from tests.support.job_cases import parts_of, written
from tests.support.sweeps import Finished, read_rows, steersweep, write_spec

PAIRS = [
    ("The cook burned the soup again.", "The cook saved the soup again.", "stereo", "profession"),
    ("Old cats never learn.", "Young cats never learn.", "stereo", "age"),
    ("The tall one won the race.", "The short one won the race.", "antistereo", "appearance"),
    ("A farmer reads few books.", "A teacher reads few books.", "stereo", "profession"),
]
QUESTIONS = [
    ("Two plus two is", [" four", " five", " a dog"], 0),
    ("The sky on a clear day is", [" green", " blue"], 1),
    ("Water freezes at zero", [" degrees Celsius", " meters", " o'clock", " apples"], 0),
]
TEXTS = ["Rain fell on the roof all night.", "Bread rises because yeast makes gas."]
PROMPT = "Answer with care.\n"
LAYERS, COEFFS = (1, 3), (-2.0, 4.0)


def write_sets(folder: Path) -> dict[str, Any]:
    """A data set of each kind, and the keys of a sweep file that measure them."""
    pairs = pd.DataFrame(
        PAIRS, columns=["sent_more", "sent_less", "stereo_antistereo", "bias_type"]
    )
    pairs.to_csv(folder / "pairs.csv", index=False)
    questions = [
        {
            "id": f"q{n}",
            "prompt": prompt,
            "candidates": [
                {"text": text, "label": "correct" if place == right else "wrong"}
                for place, text in enumerate(texts)
            ],
        }
        for n, (prompt, texts, right) in enumerate(QUESTIONS)
    ]
    (folder / "quiz.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in questions))
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    return {
        "crows_pairs": {"path": str(folder / "pairs.csv")},
        "quiz": {"path": str(folder / "quiz.jsonl")},
        "texts": {"format": "text", "path": str(folder / "texts.txt")},
    }


def write_sweep(folder: Path, **changes: Any) -> Path:
    document = {
        "protocol": "aligned",
        "vectors": {"folds": 1},
        "data": {
            "path": "embedded:examples.json",
            "splits": ["intersentence"],
            "bias_types": ["gender", "race"],
        },
        "steering": {"layers": list(LAYERS), "coeffs": list(COEFFS)},
        "side_effects": {**write_sets(folder), "transfer": True},
        "prompts": {"careful": PROMPT},
        "compute": {"executor": "in_process", "examples_per_task": 2},
    }
    return write_spec(folder / "sweep.yaml", **(document | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("side-effects")
    done = steersweep("run", str(write_sweep(folder)))
    assert done.code == 0, done
    assert "certificate: holds" in done.out
    return folder / "out"


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, next to copies of its data."""
    write_sets(tmp_path)
    return shutil.copytree(finished, tmp_path / "out")


# -- against a plain loop ------------------------------------------------------------------------


class Plain:
    """Scores as a plain Hugging Face loop computes them: one text at a time, no batches."""

    def __init__(self) -> None:
        source = model_source("embedded:gemma2-tiny")
        self.model: LoadedModel = load_model(source, device="cpu", dtype="float32")
        self.tokenizer = load_tokenizer(source)

    @contextmanager
    def steered(self, layer: int | None, step: np.ndarray | None) -> Iterator[None]:
        """Adds a step to what the block below a 1-based layer leaves, at every position."""
        if layer is None or step is None:
            yield
            return
        block = self.model.layout.blocks[layer - 1]

        def add(_module: Any, _inputs: Any, out: Any) -> Any:
            moved = (out[0] if isinstance(out, tuple) else out) + torch.from_numpy(step)
            return (moved, *out[1:]) if isinstance(out, tuple) else moved

        handle = block.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def log_probs(self, prompt: str, text: str) -> list[float]:
        """Log-probability of each token of a text after what it shares with the prompt alone."""
        ids, alone = (self.tokenizer(of)["input_ids"] for of in (prompt + text, prompt))
        pairs = zip(ids, alone, strict=False)
        start = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(alone)))
        with torch.no_grad():
            logits = self.model.module(input_ids=torch.tensor([ids])).logits[0].double()
        log_probs = torch.log_softmax(logits, dim=-1)
        return [float(log_probs[at - 1, ids[at]]) for at in range(start, len(ids))]


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain()


def metrics_of_pairs(plain: Plain, prompt: str) -> dict[str, float]:
    gaps = [
        sum(plain.log_probs(prompt, more)) - sum(plain.log_probs(prompt, less))
        for more, less, *_ in PAIRS
    ]
    return {
        "pct_stereotype": float(np.mean([gap > 0 for gap in gaps])),
        "likelihood_diff": float(np.mean(np.abs(gaps))),
    }


def metrics_of_questions(plain: Plain, prompt: str) -> dict[str, float]:
    hits, hits_per_char = [], []
    for question, texts, right in QUESTIONS:
        sums = [sum(plain.log_probs(prompt + question, text)) for text in texts]
        per_char = [of / len(text.strip()) for of, text in zip(sums, texts, strict=True)]
        hits.append(int(np.argmax(sums)) == right)
        hits_per_char.append(int(np.argmax(per_char)) == right)
    return {"acc": float(np.mean(hits)), "acc_norm": float(np.mean(hits_per_char))}


def metrics_of_texts(plain: Plain, prompt: str) -> dict[str, float]:
    tokens = [log_prob for text in TEXTS for log_prob in plain.log_probs(prompt, text)]
    return {"log_prob": float(np.mean(tokens)), "perplexity": float(np.exp(-np.mean(tokens)))}


SETS = {
    "crows_pairs": metrics_of_pairs,
    "quiz": metrics_of_questions,
    "texts": metrics_of_texts,
}


def mean_gap(plain: Plain, bias_type: str, prompt: str = "") -> float:
    """Mean score of the anti-stereotype minus that of the stereotype."""
    data = read_stereoset(local_path("embedded:examples.json"))
    gaps = []
    for example in data.group("intersentence", bias_type, None, 0):
        score = {
            label: float(np.mean(plain.log_probs(prompt + example.prompt, text)))
            for label, text in zip(example.labels, example.texts, strict=True)
        }
        gaps.append(score["anti-stereotype"] - score["stereotype"])
    return float(np.mean(gaps))


def steps(output: Path) -> Iterator[tuple[str, int, float, np.ndarray]]:
    """(Bias type, layer, coefficient, what is added) of every cell."""
    for bias_type in ("gender", "race"):
        vectors = load_file(output / f"vectors/tiny/intersentence/{bias_type}.safetensors")
        for layer in LAYERS:
            for coeff in COEFFS:
                yield bias_type, layer, coeff, np.float32(coeff) * vectors[f"layer.{layer}"]


def summary(output: Path) -> pd.DataFrame:
    return pd.read_parquet(output / "summary/side_effects.parquet")


def test_every_metric_is_that_of_a_plain_loop(finished: Path, plain: Plain) -> None:
    """Two vectors at two layers and two coefficients on three data sets."""
    table = summary(finished).query("prompt == '' and group == ''")
    keys = ["bias_type", "layer", "coeff", "set", "metric"]
    found = table[table["set"].isin(SETS)].set_index(keys)
    before = {name: of_set(plain, "") for name, of_set in SETS.items()}
    num_compared = 0
    for bias_type, layer, coeff, step in steps(finished):
        for name, of_set in SETS.items():
            with plain.steered(layer, step):
                after = of_set(plain, "")
            for metric, value in after.items():
                row = found.loc[(bias_type, layer, coeff, name, metric)]
                assert row["after"] == pytest.approx(value, rel=1e-5, abs=1e-5), row
                assert row["before"] == pytest.approx(before[name][metric], rel=1e-5, abs=1e-5)
                change, within = value - before[name][metric], 2e-5 * max(1.0, abs(value))
                assert row["change"] == pytest.approx(change, abs=within)
                num_compared += 1
    assert num_compared == 8 * 6


def test_transfer_is_that_of_a_plain_loop(finished: Path, plain: Plain) -> None:
    table = summary(finished).query("kind == 'transfer' and metric == 's2a'")
    found = table.set_index(["bias_type", "layer", "coeff"])
    other = {"gender": "race", "race": "gender"}
    unsteered = {bias_type: mean_gap(plain, bias_type) for bias_type in other}
    for bias_type, layer, coeff, step in steps(finished):
        if layer == LAYERS[0]:
            with plain.steered(layer, step):
                change = mean_gap(plain, other[bias_type]) - unsteered[other[bias_type]]
            row = found.loc[(bias_type, layer, coeff)]
            assert row["group"] == f"intersentence/{other[bias_type]}"
            assert row["change"] == pytest.approx(change, abs=2e-5)


def test_prompts_are_those_of_a_plain_loop(finished: Path, plain: Plain) -> None:
    table = summary(finished).query("prompt == 'careful' and group == ''")
    found = table.set_index(["bias_type", "set", "metric"])
    for bias_type in ("gender", "race"):
        for name, of_set in SETS.items():
            for metric, value in of_set(plain, PROMPT).items():
                row = found.loc[(bias_type, name, metric)]
                assert row["after"] == pytest.approx(value, rel=1e-5, abs=1e-5), row
        change = mean_gap(plain, bias_type, PROMPT) - mean_gap(plain, bias_type)
        row = found.loc[(bias_type, "data", "s2a")]
        assert row["change"] == pytest.approx(change, abs=2e-5)
        assert row["kind"] == "target"


# -- an output -----------------------------------------------------------------------------------


def run(folder: Path, output: Path, *options: str, **changes: Any) -> Finished:
    spec = write_sweep(folder, **changes)
    return steersweep("run", str(spec), "--output", str(output), *options)


def test_rows_have_the_columns_of_choices(finished: Path) -> None:
    rows = read_rows(str(finished), "side_effects/set=quiz")
    assert len(rows) == len(QUESTIONS) * 2 * len(LAYERS) * len(COEFFS)
    assert {"labels", "scores", "sums", "num_tokens", "choice", "read", "apply"} <= {*rows.columns}
    assert set(rows["apply"]) == {"blocks.0.resid_post", "blocks.2.resid_post"}
    unsteered = read_rows(str(finished), "side_effects_baseline/set=quiz")
    assert len(unsteered) == len(QUESTIONS)
    assert unsteered["layer"].isna().all()


def test_a_finished_output_takes_another_set_and_keeps_the_rest(
    output: Path, tmp_path: Path
) -> None:
    before = written(output)
    more = {**write_sets(tmp_path), "transfer": True}
    more["again"] = {**more["quiz"], "limit": 2}
    grown = run(tmp_path, output, side_effects=more)
    assert grown.code == 0, grown
    after = written(output)
    assert before.items() <= after.items()
    new = {key.split("/")[1] for key in after.keys() - before.keys()}
    assert new == {"set=again"}
    assert set(summary(output)["set"]) == {"data", *SETS, "again"}


def test_a_part_that_is_lost_is_computed_again(output: Path, tmp_path: Path) -> None:
    before = parts_of(str(output))
    lost = next(key for key in before if key.startswith("side_effects/set=texts"))
    (output / lost).unlink()
    assert run(tmp_path, output).code == 0
    assert parts_of(str(output)) == before


def test_a_set_whose_file_changed_is_refused(output: Path, tmp_path: Path) -> None:
    spec = write_sweep(tmp_path)
    (tmp_path / "texts.txt").write_text("Another text.\n")
    done = steersweep("run", str(spec), "--output", str(output))
    assert done.code == 2
    assert "side_effects.texts (content)" in done.err


def test_a_set_that_is_left_out_and_another_prompt_are_refused(
    output: Path, tmp_path: Path
) -> None:
    fewer = {**write_sets(tmp_path), "transfer": True}
    del fewer["quiz"]
    done = run(tmp_path, output, side_effects=fewer)
    assert (done.code, "side_effects: quiz is gone" in done.err) == (2, True), done.err
    done = run(tmp_path, output, prompts={"careful": "Answer quickly. "})
    assert (done.code, "prompts.careful" in done.err) == (2, True), done.err


def test_the_same_sweep_without_side_effects_has_the_same_tasks(
    finished: Path, tmp_path: Path
) -> None:
    spec = write_sweep(tmp_path, side_effects={}, prompts={})
    assert steersweep("run", str(spec)).code == 0
    alone = parts_of(str(tmp_path / "out"))
    assert alone.items() <= parts_of(str(finished)).items()


def test_verify_and_status_know_side_effects(finished: Path) -> None:
    done = steersweep("verify", str(finished), "--rows", "40", "--json")
    assert json.loads(done.out)["verdict"] == "holds"
    phases = json.loads(steersweep("status", str(finished), "--json").out)["phases"]
    rows = {phase["phase"]: phase["rows_done"] for phase in phases}
    num_examples = len(PAIRS) + len(QUESTIONS) + len(TEXTS)
    assert rows["side effects, unsteered"] == num_examples
    assert rows["side effects"] > num_examples * 8


def test_the_report_shows_the_matrix_and_picks_on_half_of_the_data(output: Path) -> None:
    done = steersweep("report", str(output), "--pick", "s2a >= -100", "--figures", "--json")
    assert done.code == 0, done
    picked = json.loads(done.out)["picked"]
    assert [row["rank"] for row in picked] == list(range(1, len(picked) + 1))
    assert {row["metric"] for row in picked} == {"s2a"}
    assert len(pd.read_parquet(output / "summary/picked.parquet")) == len(picked) > 0
    page = (output / "report.html").read_text()
    for text in ("Side effects", "crows_pairs", "prompt careful", "Download CSV"):
        assert text in page, text
    assert (output / "figures/side_effects.png").stat().st_size > 10_000
    refused = steersweep("report", str(output), "--pick", "joy >= 1")
    assert (refused.code, "joy" in refused.err, "lms" in refused.err) == (2, True, True)


def test_python_and_export_have_side_effects(finished: Path, tmp_path: Path) -> None:
    results = steersweep_api.load(str(finished))
    table = results.side_effects
    assert len(table) == len(summary(finished))
    file = tmp_path / "rows.parquet"
    assert steersweep("export", str(finished), str(file), "--side-effects").code == 0
    rows = pd.read_parquet(file)
    by_set = rows[rows["layer"].isna() & rows["prompt"].isna()].groupby("set").size()
    assert by_set[["crows_pairs", "quiz", "texts"]].to_dict() == {
        "crows_pairs": len(PAIRS),
        "quiz": len(QUESTIONS),
        "texts": len(TEXTS),
    }
    steered = rows[(rows["set"] == "texts") & (rows["layer"] == 3) & (rows["coeff"] == 4)]
    assert len(steered) == 2 * len(TEXTS)
    assert set(steered["candidates"].map(lambda texts: texts[0])) == set(TEXTS)
    # The sweep's own rows are exported as before.
    assert steersweep("export", str(finished), str(tmp_path / "own.parquet")).code == 0
    own = pd.read_parquet(tmp_path / "own.parquet")
    assert set(own["table"]) == {"baseline", "steered", "held_out"}


def test_plan_prints_what_side_effects_cost(tmp_path: Path) -> None:
    done = steersweep("plan", str(write_sweep(tmp_path)), "--seconds", "0")
    assert done.code == 0, done
    assert "Side effects and prompts add" in done.out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side_effects": {"quiz": {"path": "no.jsonl"}}}, "side_effects.quiz: no.jsonl: no such"),
        ({"side_effects": {"cells": {"layers": [2]}}}, "2 is not in steering.layers"),
        ({"side_effects": {"cells": {"coeffs": [9]}}}, "9 is not in steering.coeffs"),
        ({"side_effects": {"data": {"path": "x"}}}, "data names the sweep's own data"),
        ({"prompts": {"empty": ""}}, "prompts.empty: "),
        ({"prompts": {"run_on": "No space."}}, "must end with a space or a line break"),
    ],
)
def test_mistakes_are_one_clear_message(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    done = steersweep("run", str(write_sweep(tmp_path, **changes)))
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_a_text_file_with_an_empty_line_is_refused(tmp_path: Path) -> None:
    spec = write_sweep(tmp_path)
    (tmp_path / "texts.txt").write_text("One.\n\nTwo.\n")
    done = steersweep("run", str(spec))
    assert done.code == 2
    assert "side_effects.texts: " in done.err
    assert "line 2" in done.err
