"""A persona sweep whose judge is a model on replicas, on Ray as in process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.persona.judges.prompts import COHERENCE_PROMPT, fill
from tests.support.personas import save_chat_model, save_judge_model, write_persona_spec
from tests.support.sweeps import steersweep

PASSING = {"positive_at_least": 0, "negative_below": 100, "coherence_at_least": 0}


def parts_of(output: Path) -> dict[str, pd.DataFrame]:
    """Every part by its name below the output."""
    return {
        str(path.relative_to(output)): pq.ParquetFile(path).read().to_pandas()
        for path in sorted(output.glob("*/model=*/**/*.parquet"))
    }


def score_by_hand(folder: Path, prompt: str) -> float:
    """The mean of 0..100, weighted by the probability of each as the next token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        probs_V = model(ids).logits[0, -1].double().softmax(-1).numpy()
    masses = probs_V[tokenizer.convert_tokens_to_ids([str(number) for number in range(101)])]
    return float(masses @ np.arange(101) / masses.sum())


@pytest.mark.ray
@pytest.mark.nightly
def test_replicas_judge_and_ray_leaves_what_one_process_leaves(
    ray_cluster: None, tmp_path: Path
) -> None:
    chat, judge = save_chat_model(tmp_path / "chat"), save_judge_model(tmp_path / "judge")
    outputs = {}
    for executor in ("in_process", "ray"):
        folder = tmp_path / executor
        folder.mkdir()
        compute = {"executor": executor, "examples_per_task": 8, "replicas": 2}
        spec = write_persona_spec(
            folder,
            chat,
            judge={"kind": "local", "path": str(judge)},
            filter=PASSING,
            compute=compute if executor == "ray" else {**compute, "replicas": 1},
        )
        done = steersweep("run", str(spec))
        assert done.code == 0, done
        assert "Scores of steered answers" in done.out
        outputs[executor] = parts_of(folder / "out")
    one, other = outputs.values()
    assert one.keys() == other.keys()
    for name, rows in one.items():
        pd.testing.assert_frame_equal(rows, other[name], check_exact=True)
    scores = pd.concat(rows for name, rows in one.items() if name.startswith("scores/"))
    assert set(scores["trait_outcome"]) == {"scored"}
    answers = next(rows for name, rows in one.items() if "answers/model=chat/trait=sly" in name)
    row = answers.iloc[0]
    said = next(s for n, s in one.items() if "scores/" in n and "trait=sly" in n
                and set(s["row_id"]) == set(answers["row_id"])).set_index("row_id")  # fmt: skip
    for column, prompt in (
        ("trait_score", "How sly? Q: {question} A: {answer}"),
        ("coherence", COHERENCE_PROMPT),
    ):
        wanted = score_by_hand(judge, fill(prompt, row["question"], row["answer"]))
        assert said.loc[row["row_id"], column] == pytest.approx(wanted, abs=1e-3)
    again = steersweep("run", str(tmp_path / "ray" / "persona.yaml"))
    assert again.code == 0
    assert parts_of(tmp_path / "ray" / "out").keys() == other.keys()


def test_a_judge_that_is_no_chat_model_is_refused_before_anything(tmp_path: Path) -> None:
    chat = save_chat_model(tmp_path / "chat")
    base = save_chat_model(tmp_path / "base", template=None)
    spec = write_persona_spec(tmp_path, chat, judge={"kind": "local", "path": str(base)})
    refused = steersweep("run", str(spec))
    assert refused.code == 2
    assert "a judge must be a chat model" in " ".join(refused.err.split())
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
