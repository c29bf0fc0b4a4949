"""``measures: [kl]``: the divergence from the unsteered distribution, against whole logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from steering_core.encoding import EncodedCandidate, EncodedExample, ExampleEncoder
from steering_core.engine import Cell, Engine
from steering_core.models import LoadedModel
from steering_core.protocol import PROTOCOLS, Protocol, ProtocolName
from steering_core.slow_engine import SlowEngine
from steering_core.vectors import SteeringVectors
from tests.support.golden import golden_examples, on_cpu
from tests.support.tiny_models import random_model, train_tokenizer

TOLERANCE = 1e-5
TOKENS_PER_BATCH = 500
LAYERS = (1, 4)
FAMILIES = ("gemma2", "llama", "qwen3")
"""Soft-capped logits, and none."""
CELLS = [Cell(layer, coeff) for layer in LAYERS for coeff in (-3.0, 0.0, 0.5)]
WAYS = ("packed", "separate", "static")

families = pytest.mark.parametrize("family", FAMILIES)


@cache
def tokenizer() -> Any:
    texts = [t for e in golden_examples().examples for t in (e.context, *e.sentences)]
    return train_tokenizer(texts, 600)


@cache
def model_of(family: str) -> LoadedModel:
    return on_cpu(random_model(family, len(tokenizer())), family)


def encode(protocol: Protocol) -> list[EncodedExample]:
    examples = golden_examples()
    chosen = (
        *examples.group("intersentence", "race")[:2],
        *examples.group("intrasentence", "gender")[:2],
    )
    return ExampleEncoder(tokenizer(), protocol, "tiny").encode(chosen)


def vectors_of(model: LoadedModel) -> SteeringVectors:
    rng, width = np.random.default_rng(0), model.layout.config.hidden_size
    return SteeringVectors(
        {layer: rng.normal(size=width).astype(np.float32) for layer in LAYERS}, {}
    )


@contextmanager
def added(block: Any, vector: torch.Tensor, start: int, *, before: bool) -> Iterator[None]:
    """While open, the vector is added from a position on, as a plain hook adds it."""

    def change(hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden.clone()
        hidden[:, start:] += vector
        return hidden

    def on_input(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    def on_output(_module: Any, _args: Any, output: Any) -> Any:
        is_tuple = isinstance(output, tuple)
        return (change(output[0]), *output[1:]) if is_tuple else change(output)

    handle = (
        block.register_forward_pre_hook(on_input)
        if before
        else block.register_forward_hook(on_output)
    )
    with torch.inference_mode():
        yield
    handle.remove()


def direct_kl(
    model: LoadedModel, rows: list[EncodedExample], protocol: Protocol, cell: Cell
) -> np.ndarray:
    """By Hugging Face alone: two forwards of each candidate, whole logits, float64."""
    block = model.module.model.layers[cell.layer - 1]
    vector = torch.as_tensor(cell.coeff * vectors_of(model).whole[cell.layer])

    def log_probs(candidate: EncodedCandidate) -> torch.Tensor:
        logits = model.module(torch.tensor([candidate.token_ids])).logits[0]
        return torch.log_softmax(logits[list(candidate.scored_positions)].double(), dim=-1)

    found = []
    for row in rows:
        divergences: list[float] = []
        for candidate in row.candidates:
            start = candidate.num_question if protocol.positions == "candidate" else 0
            with torch.inference_mode():
                unsteered = log_probs(candidate)
            with added(block, vector, start, before=protocol.apply == "resid_pre"):
                steered = log_probs(candidate)
            kl = torch.nn.functional.kl_div(unsteered, steered, reduction="none", log_target=True)
            divergences += kl.sum(dim=-1).tolist()
        found.append(np.mean(divergences))
    return np.asarray(found)


def engine_of(model: LoadedModel, protocol: Protocol, way: str) -> Engine:
    return Engine(
        model,
        protocol,
        is_packed=way != "separate",
        is_static=way == "static",
        reuses_prefix=protocol.leaves_prefix_alone,
        measures=["kl"],
    )


@families
@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("positions", ["all", "candidate"])
def test_kl_is_that_of_whole_logits(family: str, name: ProtocolName, positions: Any) -> None:
    model, protocol = model_of(family), replace(PROTOCOLS[name], positions=positions)
    rows, vectors = encode(protocol), vectors_of(model_of(family))
    wanted = [direct_kl(model, rows, protocol, cell) for cell in CELLS]
    engines = {way: engine_of(model, protocol, way) for way in WAYS}
    assert engines["packed"].reuses_prefix == (positions == "candidate")
    found = {
        way: engine.steered(rows, TOKENS_PER_BATCH, CELLS, vectors)
        for way, engine in engines.items()
    }
    folds = [0] * len(rows)
    found["slow"] = SlowEngine(model, protocol, ["kl"]).steered(rows, CELLS, vectors, folds)
    for way, of_way in found.items():
        for cell, of_cell, kl in zip(CELLS, of_way, wanted, strict=True):
            assert of_cell.kl is not None
            np.testing.assert_allclose(
                of_cell.kl, kl, rtol=0, atol=TOLERANCE, err_msg=f"{way}, {cell}"
            )
    # A measure that is always near 0 would agree with anything.
    assert max(kl.min() for kl in wanted) > 0.01


@families
@pytest.mark.parametrize("way", WAYS)
def test_a_coefficient_of_0_diverges_by_exactly_0(family: str, way: str) -> None:
    protocol = PROTOCOLS["aligned"]
    rows, vectors = encode(protocol), vectors_of(model_of(family))
    engine = engine_of(model_of(family), protocol, way)
    cells = [cell for cell in CELLS if cell.coeff == 0]
    for of_cell in engine.steered(rows, TOKENS_PER_BATCH, cells, vectors):
        assert of_cell.kl is not None
        assert of_cell.kl.tolist() == [0.0] * len(rows)


@families
@pytest.mark.parametrize("positions", ["candidate", "last"])
def test_behind_a_kept_prefix_a_coefficient_of_0_diverges_by_rounding(
    family: str, positions: Any
) -> None:
    """The steered positions are computed in another shape than the whole row."""
    protocol = replace(PROTOCOLS["aligned"], positions=positions)
    rows, vectors = encode(protocol), vectors_of(model_of(family))
    engine = engine_of(model_of(family), protocol, "packed")
    assert engine.reuses_prefix
    (of_cell,) = engine.steered(rows, TOKENS_PER_BATCH, [Cell(1, 0.0)], vectors)
    assert of_cell.kl is not None
    assert of_cell.kl.max() < 1e-6
    assert of_cell.kl.min() >= 0


@pytest.mark.parametrize("positions", ["all", "candidate"])
@pytest.mark.parametrize("way", WAYS)
def test_scores_keep_their_bits_when_kl_is_measured(way: str, positions: Any) -> None:
    model, protocol = model_of("gemma2"), replace(PROTOCOLS["aligned"], positions=positions)
    rows, vectors = encode(protocol), vectors_of(model)
    measuring = engine_of(model, protocol, way)
    plain = Engine(
        model,
        protocol,
        is_packed=measuring.is_packed,
        is_static=measuring.is_static,
        reuses_prefix=measuring.reuses_prefix,
    )
    for cell, found, wanted in zip(
        CELLS,
        measuring.steered(rows, TOKENS_PER_BATCH, CELLS, vectors),
        plain.steered(rows, TOKENS_PER_BATCH, CELLS, vectors),
        strict=True,
    ):
        np.testing.assert_array_equal(found.scores, wanted.scores, err_msg=str(cell))
        assert wanted.kl is None


def test_a_push_that_overflows_has_no_kl_and_leaves_the_other_rows_theirs() -> None:
    model, protocol = model_of("llama"), PROTOCOLS["aligned"]
    rows, vectors = encode(protocol), vectors_of(model)
    vector = vectors.whole[4]
    of_folds = {4: [vector, vector * np.float32(np.inf)]}
    broken = SteeringVectors(vectors.whole, {4: of_folds[4]})
    engine = engine_of(model, protocol, "packed")
    (found,) = engine.steered(rows, TOKENS_PER_BATCH, [Cell(4, 1.0)], broken, [0, 1, 0, 0])
    (wanted,) = engine.steered(rows, TOKENS_PER_BATCH, [Cell(4, 1.0)], vectors)
    assert found.kl is not None
    assert wanted.kl is not None
    assert np.isnan(found.kl).tolist() == [False, True, False, False]
    np.testing.assert_array_equal(found.kl[[0, 2, 3]], wanted.kl[[0, 2, 3]])
