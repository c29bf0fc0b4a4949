"""A model spread over two devices scores and writes what it does on one, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from steering_core.encoding import EncodedExample, ExampleEncoder
from steering_core.engine import Cell
from steering_core.generation import GenerationRow, generate
from steering_core.generation_probe import slots_problem
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.layout import find_layout
from steering_core.models import LoadedModel
from steering_core.probes import engine_for
from steering_core.protocol import PROTOCOLS, Protocol
from steering_core.response_states import AnsweredPrompt, collect_response_states
from steering_core.sampling import Sampling
from steering_core.slow_engine import SlowEngine
from steering_core.vectors import SteeringVectors
from tests.support.golden import golden_examples, on_cpu
from tests.support.tiny_models import random_model, train_tokenizer
from tests.support.two_devices import FIRST, SECOND, spread, two_devices

LAYERS = (1, 3, 4)
ALIGNED = PROTOCOLS["aligned"]
PROTOCOLS_TRIED = {
    "every position": PROTOCOLS["as_published"],
    "behind a kept prefix": replace(ALIGNED, positions="candidate"),
    "inside of blocks": replace(ALIGNED, operation="project_out", apply="mlp_out"),
}
VECTORS = SteeringVectors(
    {k: np.random.default_rng(k).standard_normal(64).astype(np.float32) for k in LAYERS}, {}
)


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[LoadedModel, LoadedModel]]:
    """A model on the host and the same one on two devices; gemma2's head is its embedding."""
    texts = [t for e in golden_examples().examples for t in (e.context, *e.sentences)]
    module = random_model(request.param, len(train_tokenizer(texts, 600)))
    module.set_attn_implementation("eager")  # type: ignore[operator]
    over_two = copy.deepcopy(module)
    with two_devices():
        spread(over_two)
        layout = find_layout(over_two, request.param)
        yield (
            on_cpu(module, request.param),
            LoadedModel(over_two, layout, FIRST, torch.float32, request.param),
        )


def rows_of(protocol: Protocol) -> list[EncodedExample]:
    examples = golden_examples()
    texts = [t for e in examples.examples for t in (e.context, *e.sentences)]
    encoder = ExampleEncoder(train_tokenizer(texts, 600), protocol, "tiny")
    return encoder.encode(examples.group("intersentence", "race")[:3])


def test_the_blocks_lie_on_both_devices(pair: tuple[LoadedModel, LoadedModel]) -> None:
    _, two = pair
    devices = [next(block.parameters()).device for block in two.layout.blocks]
    assert devices == [FIRST, FIRST, SECOND, SECOND]
    with pytest.raises(RuntimeError, match=r"tensors on \['meta:0', 'meta:1'\]"):
        torch.zeros(2, device=FIRST) + torch.zeros(2, device=SECOND)


@pytest.mark.parametrize("name", PROTOCOLS_TRIED)
def test_scores_and_states_are_those_of_one_device(
    pair: tuple[LoadedModel, LoadedModel], name: str
) -> None:
    protocol = PROTOCOLS_TRIED[name]
    rows = rows_of(protocol)
    cells = [Cell(layer, coeff) for layer in LAYERS for coeff in (0.0, 3.0)]
    found = []
    for model in pair:
        engine, slow = engine_for(model, protocol), SlowEngine(model, protocol)
        assert engine.is_packed
        assert engine.reuses_prefix == (name == "behind a kept prefix")
        baseline, pooled = engine.baseline(rows, 500, LAYERS)
        steered = engine.steered(rows, 500, cells, VECTORS)
        found.append(
            [
                baseline.scores,
                pooled.differences,
                *(scores.scores for scores in steered),
                slow.row_scores(rows[0], cells[-1], VECTORS),
                slow.row_states(rows[0], LAYERS),
            ]
        )
    for on_one, on_two in zip(*found, strict=True):
        np.testing.assert_array_equal(on_two, on_one)
    assert not np.array_equal(found[1][0], found[1][-3]), "steering changes nothing"


def test_answers_and_their_states_are_those_of_one_device(
    pair: tuple[LoadedModel, LoadedModel],
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        GenerationRow(
            tuple(rng.integers(4, 300, length).tolist()),
            steering=Intervention(HookPoint(block, "resid_post"), VECTORS.whole[1], 2.0),
        )
        for length, block in ((9, 0), (14, 3), (11, 2))
    ]
    sampling = Sampling(max_new_tokens=6, eos_ids=(), greedy=True)
    one, two = ([a.token_ids for a in generate(m, rows, sampling, rows_at_once=2)] for m in pair)
    assert one == two
    assert slots_problem(pair[1]) is None
    answered = [AnsweredPrompt(row.prompt_ids, ids) for row, ids in zip(rows, one, strict=True)]
    on_one, on_two = (collect_response_states(model, answered, 64) for model in pair)
    np.testing.assert_allclose(on_two.response_mean, on_one.response_mean, rtol=1e-6)
