"""``job: choices`` from a data file to its report, with the tiny model of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import steersweep as steersweep_api
from jobs.choices.results import ChoicesResults
from jobs.resources import model_source
from steering_core.models import load_model, load_tokenizer
from tests.support.sweeps import Finished, steersweep, write_spec

OPTIONS = ("a red car", "two cats", "the blue sky", "an old house")


def listed(n: int) -> dict[str, Any]:
    """A question that lists its options, 3 or 4 of them."""
    options = OPTIONS[: 3 + n % 2]
    lines = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", options, strict=False))
    return {
        "id": f"q{n}",
        "group": {"topic": "even" if n % 2 == 0 else "odd"},
        "cluster": f"c{n // 2}",
        "prompt": f"What is number {n} about?{lines}\nAnswer:",
        "candidates": [
            {"text": f" {letter}", "label": "correct" if place == n % 3 else "incorrect"}
            for place, letter in enumerate("ABCD"[: len(options)])
        ],
    }


def run(folder: Path, records: list[dict[str, Any]], **changes: Any) -> tuple[Finished, str]:
    data = folder / "data.jsonl"
    data.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    document = {
        "job": "choices",
        "data": {"path": str(data), **changes.pop("data", {})},
        "contrast": {"positive": "correct", "negative": "incorrect"},
        "vectors": {"pooling": "candidate_last"},
        "steering": {"layers": [1, 3], "coeffs": [-0.5, 0.5], "unit": "stream"},
        **changes,
    }
    return steersweep("run", str(write_spec(folder / "sweep.yaml", **document))), f"{folder}/out"


def loaded(uri: str) -> ChoicesResults:
    results = steersweep_api.load(uri)
    assert isinstance(results, ChoicesResults)
    return results


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    done, uri = run(
        tmp_path_factory.mktemp("choices"),
        [listed(n) for n in range(12)],
        nulls={"random": 2, "shuffled": 2, "layers": 3, "coeffs": 0.5},
        measures=["kl"],
    )
    assert done.code == 0, done
    assert "certificate: holds" in done.out
    result = done.out.partition("certificate:")[0].partition("Without steering")[2]
    assert [line for line in result.splitlines() if len(line) > 80] == []
    return uri


def test_vectors_are_those_of_contrastive_activation_addition(finished: str) -> None:
    """Rimsky et al. 2024: the mean difference of the states at the token of the answer's letter."""
    source = model_source("embedded:gemma2-tiny")
    model, tokenizer = load_model(source, device="cpu", dtype="float32"), load_tokenizer(source)
    sides: dict[int, list[np.ndarray]] = {1: [], 3: []}
    for n in range(12):
        states: dict[str, list[torch.Tensor]] = {"correct": [], "incorrect": []}
        for candidate in listed(n)["candidates"]:
            ids = tokenizer(listed(n)["prompt"] + candidate["text"])["input_ids"]
            with torch.no_grad():
                hidden = model.module(input_ids=torch.tensor([ids]), output_hidden_states=True)
            at_letter = torch.stack([h[0, -1] for h in hidden.hidden_states]).double()
            states[candidate["label"]].append(at_letter)
        gap = torch.stack(states["correct"]).mean(0) - torch.stack(states["incorrect"]).mean(0)
        for layer, of_layer in sides.items():
            of_layer.append(gap[layer].numpy())
    vectors = loaded(finished).vectors
    for layer, of_layer in sides.items():
        mine = vectors[(vectors["layer"] == layer) & vectors["fold"].isna()]
        (found,) = mine["vector"]
        np.testing.assert_allclose(found, np.mean(of_layer, axis=0), rtol=0, atol=1e-5)


def test_the_summary_has_the_metrics_of_the_rows(finished: str) -> None:
    results = loaded(finished)
    before = results.baseline
    chosen = before["sums"].map(np.argmax)
    right = [labels[at] == "correct" for labels, at in zip(before["labels"], chosen, strict=True)]
    (whole,) = results.summary["baseline"].query("group_key == ''").itertuples()
    assert whole.acc == pytest.approx(np.mean(right))
    assert whole.acc_low <= whole.acc <= whole.acc_high
    assert whole.num_clusters == 6

    def gap(rows: pd.DataFrame) -> pd.Series:
        pairs = zip(rows["labels"], rows["scores"], strict=True)
        return pd.Series(
            [
                np.mean([s for s, name in zip(scores, labels, strict=True) if name == "correct"])
                - np.mean([s for s, name in zip(scores, labels, strict=True) if name != "correct"])
                for labels, scores in pairs
            ],
            index=rows["example_id"],
        )

    cells = results.cells.set_index(["layer", "coeff"])
    for (layer, coeff), rows in results.steered.groupby(["layer", "coeff"]):
        change = (gap(rows) - gap(before)).mean()
        assert cells.loc[layer, coeff]["gap_change"] == pytest.approx(change, abs=1e-9)
        # Each scored token counts the same, as in a StereoSet sweep.
        mean_kl = np.average(rows["kl"], weights=rows["num_tokens"].map(sum))
        assert cells.loc[layer, coeff]["kl"] == pytest.approx(mean_kl, abs=1e-9)
        assert cells.loc[layer, coeff]["dose"] == pytest.approx(0.5)
    assert set(results.pooled["vectors"]) == {"in_sample", "held_out"}
    assert set(results.null_tests["null"]) == {"random", "shuffled"}


def test_groups_are_split(finished: str) -> None:
    groups = loaded(finished).summary["groups"]
    assert set(groups["group_value"]) == {"even", "odd"}
    assert (groups["num_examples"] == 6).all()


def test_the_page_tells_what_was_run(finished: str) -> None:
    page = Path(finished, "report.html").read_text()
    for text in ("correct", "the candidate&#39;s last token", "held-out", "gap between"):
        assert text in page, text


def test_orders_of_options_are_scored_and_their_bias_is_reported(tmp_path: Path) -> None:
    done, uri = run(
        tmp_path,
        [listed(n) for n in range(4)],
        data={"candidate_orders": 3},
        vectors={"held_out": False},
        steering={"layers": [2], "coeffs": [1]},
    )
    assert done.code == 0, done
    results = loaded(uri)
    assert len(results.baseline) == 12
    assert sorted(results.baseline["group_order"].unique()) == ["0", "1", "2"]
    (whole,) = results.summary["baseline"].query("group_key == ''").itertuples()
    assert 0 <= whole.position_bias <= 1
    assert 0 <= whole.order_agreement <= 1
    assert whole.num_clusters == 2
    # Under another order, the letter of the right option is another one.
    texts = results.examples.set_index("example_id")
    assert texts.loc["q0@1", "prompt"] != texts.loc["q0", "prompt"]


def test_vectors_of_a_file_need_no_contrast(finished: str, tmp_path: Path) -> None:
    done, uri = run(
        tmp_path,
        [listed(n) for n in range(4)],
        contrast={},
        vectors={"file": f"{finished}/vectors/tiny/all.safetensors"},
        steering={"layers": [1], "coeffs": [2]},
    )
    assert done.code == 0, done
    results = loaded(uri)
    assert "gap_change" not in results.cells
    assert results.cells["acc_change"].notna().all()


def test_plan_knows_the_data(finished: str, tmp_path: Path) -> None:
    data = Path(finished).parent / "data.jsonl"
    spec = write_spec(
        tmp_path / "sweep.yaml",
        job="choices",
        data={"path": str(data)},
        contrast={"positive": "correct", "negative": "incorrect"},
        steering={"layers": [1], "coeffs": [2]},
    )
    plan = steersweep("plan", str(spec), "--json", "--seconds", "0")
    assert plan.code == 0, plan
    told = json.loads(plan.out)
    assert told["num_tasks"] >= 2
    assert not (tmp_path / "out").exists()
