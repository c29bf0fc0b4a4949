"""The norms of the unsteered stream, and steering in units of them, next to a plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steering_core.encoding import (
    EncodedExample,
    ExampleEncoder,
    num_common,
)
from steering_core.engine import Cell, Engine
from steering_core.hook_points import Site
from steering_core.models import LoadedModel, ModelSource, load_tokenizer
from steering_core.protocol import PROTOCOLS, Protocol, ProtocolName
from steering_core.reference import reference_scores
from steering_core.slow_engine import SlowEngine
from steering_core.stereoset import Example
from steering_core.vectors import SteeringVectors, fit_mean_difference, mean_stream_norms
from tests.support.golden import golden_examples, golden_model, model_path

MODEL = "llama-tiny"
NUM_BLOCKS = 6
LAYERS = (1, 3, NUM_BLOCKS)
TOKENS_PER_BATCH = 700


def chosen_examples() -> tuple[Example, ...]:
    examples = golden_examples()
    return (
        *examples.group("intersentence", "race"),
        *examples.group("intrasentence", "gender"),
    )


def tokenizer() -> Any:
    return load_tokenizer(ModelSource(str(model_path(MODEL))))


def encoded(protocol: Protocol) -> list[EncodedExample]:
    return ExampleEncoder(tokenizer(), protocol, MODEL).encode(chosen_examples())


def plain_states(model: LoadedModel, token_ids: list[int]) -> Iterator[tuple[str, int, Tensor]]:
    """(Site, 0-based block, state [S, D]) of the model's own forward, read by plain hooks."""
    states: dict[tuple[Site, int], Tensor] = {}
    handles = []
    for index, block in enumerate(model.module.model.layers):

        def before(_m: Any, args: Any, kwargs: Any, index: int = index) -> None:
            states["resid_pre", index] = (args or [kwargs["hidden_states"]])[0][0].clone()

        def after(_m: Any, _args: Any, output: Any, index: int = index) -> None:
            states["resid_post", index] = (output[0] if isinstance(output, tuple) else output)[0]

        handles += [
            block.register_forward_pre_hook(before, with_kwargs=True),
            block.register_forward_hook(after),
        ]
    try:
        with torch.no_grad():
            model.module(input_ids=torch.tensor([token_ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    yield from ((site, block, state) for (site, block), state in states.items())


def plain_mean_norms(model: LoadedModel, site: Site) -> dict[int, float]:
    """By layer: each text by itself and without pads, what the candidates share counted once."""
    totals, num_positions = dict.fromkeys(LAYERS, 0.0), 0
    tokenize = tokenizer()
    for example in chosen_examples():
        question = example.prompt
        texts = [f"{question}{text}" for text in example.texts]
        sequences = [tokenize(text)["input_ids"] for text in texts]
        for number, sequence in enumerate(sequences):
            first = num_common(*sequences) if number else 0
            num_positions += len(sequence) - first
            for at, block, state in plain_states(model, sequence):
                if at == site and block + 1 in totals:
                    own = state[first:].double()
                    totals[block + 1] += float((own**2).sum(dim=1).sqrt().sum())
    return {layer: total / num_positions for layer, total in totals.items()}


@pytest.mark.parametrize("is_static", [False, True], ids=["dense", "static"])
@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "separate"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("name", ["as_published", "aligned"])
def test_mean_norms_are_those_of_a_plain_loop(
    name: ProtocolName, site: Site, is_packed: bool, is_static: bool
) -> None:
    """One protocol pads its rows on the right, and pads do not count."""
    model, protocol = golden_model(MODEL), replace(PROTOCOLS[name], apply=site)
    rows = encoded(protocol)
    assert protocol.needs_pad == any(c.num_real < len(c.token_ids) for c in rows[0].candidates)
    engine = Engine(model, protocol, is_packed=is_packed, is_static=is_static)
    _, pooled = engine.baseline(rows, TOKENS_PER_BATCH, LAYERS)
    found = mean_stream_norms([pooled.sums()])
    wanted = plain_mean_norms(model, site)
    assert found.keys() == wanted.keys()
    for layer in LAYERS:
        assert found[layer] == pytest.approx(wanted[layer], rel=1e-6)
    _, slow = SlowEngine(model, protocol).baseline(rows, LAYERS)
    np.testing.assert_allclose(pooled.stream_norms, slow.stream_norms, rtol=1e-6)
    np.testing.assert_array_equal(pooled.num_positions, slow.num_positions)
    # Folds split the sums of vectors, and not those of the stream.
    folds = [n % 3 for n in range(len(rows))]
    assert mean_stream_norms([pooled.sums(folds)]) == found


def test_the_last_block_runs_where_only_its_norm_is_asked_for() -> None:
    """States are read before the block and vectors are added behind it."""
    model = golden_model(MODEL)
    protocol = replace(PROTOCOLS["aligned"], read="resid_pre", apply="resid_post")
    _, pooled = Engine(model, protocol).baseline(encoded(protocol), TOKENS_PER_BATCH, [NUM_BLOCKS])
    wanted = plain_mean_norms(model, "resid_post")[NUM_BLOCKS]
    assert mean_stream_norms([pooled.sums()])[NUM_BLOCKS] == pytest.approx(wanted, rel=1e-6)


def measured(engine: Engine, rows: list[EncodedExample], folds: list[int]) -> SteeringVectors:
    sums = engine.baseline(rows, TOKENS_PER_BATCH, LAYERS)[1].sums(folds)
    fitted = fit_mean_difference(sums, 1 + max(folds))
    sizes = tuple(np.bincount(folds).tolist())
    return replace(fitted, stream_norms=mean_stream_norms([sums]), fold_sizes=sizes)


@pytest.mark.parametrize("num_folds", [1, 3])
@pytest.mark.parametrize("name", ["as_published", "aligned"])
def test_units_agree_when_they_are_converted(name: ProtocolName, num_folds: int) -> None:
    """A dose of d is the coefficient d m / |v| of unit vector, fold by fold."""
    model, protocol = golden_model(MODEL), PROTOCOLS[name]
    rows, dose = encoded(protocol), -0.25
    folds = [n % num_folds for n in range(len(rows))]
    engine = Engine(model, protocol)
    vectors = measured(engine, rows, folds)
    by_stream = replace(vectors, unit="stream")
    cells = [Cell(layer, dose) for layer in LAYERS]
    unsteered = engine.baseline(rows, TOKENS_PER_BATCH)[0].scores
    found = engine.steered(rows, TOKENS_PER_BATCH, cells, by_stream, folds)
    slow = SlowEngine(model, protocol).steered(rows, cells, by_stream, folds)
    for cell, ours, theirs in zip(cells, found, slow, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-5)
        assert np.abs(ours.scores - unsteered).max() > 1e-3
        assert by_stream.dose(cell.layer, dose) == 0.25
        for fold in range(num_folds):
            norm = float(np.linalg.norm(vectors.for_fold(cell.layer, fold).astype(np.float64)))
            converted = Cell(cell.layer, dose * vectors.stream_norms[cell.layer] / norm)
            (of_unit_vector,) = engine.steered(rows, TOKENS_PER_BATCH, [converted], vectors, folds)
            own = np.asarray(folds) == fold
            np.testing.assert_allclose(
                of_unit_vector.scores[own], ours.scores[own], rtol=0, atol=1e-5
            )


def test_the_slow_path_adds_the_formula_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the engine's multiplier, so that a wrong one shows in every certificate."""
    monkeypatch.delattr(SteeringVectors, "multiplier")
    model, protocol = golden_model(MODEL), PROTOCOLS["aligned"]
    row = encoded(protocol)[0]
    vectors = SteeringVectors(
        {3: np.linspace(-1, 2, model.layout.config.hidden_size, dtype=np.float32)},
        {},
        stream_norms={3: 4.0},
        unit="stream",
    )
    unit = vectors.whole[3] / np.linalg.norm(vectors.whole[3])
    wanted = reference_scores(model, row, protocol.intervention(3, 0.5 * 4.0, unit))
    found = SlowEngine(model, protocol).row_scores(row, Cell(3, 0.5), vectors)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
