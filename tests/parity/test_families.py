"""Every model family: the engine against one candidate at a time through the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from steering_core.encoding import EncodedExample, ExampleEncoder
from steering_core.engine import Cell, Engine
from steering_core.hook_points import SITES
from steering_core.models import LoadedModel
from steering_core.probes import can_pack, engine_for
from steering_core.protocol import PROTOCOLS, ProtocolName
from steering_core.reference import reference_difference, reference_scores, reference_states
from steering_core.slow_engine import SlowEngine
from steering_core.vectors import SteeringVectors, fit_mean_difference
from tests.support.golden import golden_examples, on_cpu
from tests.support.tiny_models import FAMILIES, NOT_PACKED, random_model, train_tokenizer

TOLERANCE = 1e-5
LAYERS = (1, 3, 4)
"""The first, one in the middle and the last of four."""
COEFF = 3.0
TOKENS_PER_BATCH = 500

OF_EACH_KIND = ("gemma2", "llama", "gpt2", "bloom")
"""Caps and windows, neither, learned positions, and no tree mask."""

families = pytest.mark.parametrize("family", FAMILIES)


@cache
def tokenizer() -> Any:
    texts = [t for e in golden_examples().examples for t in (e.context, *e.sentences)]
    return train_tokenizer(texts, 600)


@cache
def model_of(family: str) -> tuple[LoadedModel, bool]:
    model = on_cpu(random_model(family, len(tokenizer())), family)
    return model, can_pack(model, 512)


def encode(protocol: ProtocolName) -> list[EncodedExample]:
    examples = golden_examples()
    chosen = (
        *examples.group("intersentence", "race")[:2],
        *examples.group("intrasentence", "gender")[:2],
    )
    return ExampleEncoder(tokenizer(), PROTOCOLS[protocol], "tiny").encode(chosen)


@families
def test_packing_is_refused_for_exactly_the_families_that_ignore_a_tree_mask(family: str) -> None:
    assert model_of(family)[1] == (family not in NOT_PACKED)


def _cases() -> Iterator[Any]:
    """Every family with its rows cross-fitted; one family of each kind in the other ways, too."""
    for protocol, num_folds in (("as_published", 1), ("aligned", 1), ("aligned", 2)):
        for family in FAMILIES:
            is_left_out = num_folds == 1 and family not in OF_EACH_KIND
            marks = pytest.mark.nightly if is_left_out else ()
            yield pytest.param(family, protocol, num_folds, marks=marks)


@pytest.mark.parametrize(("family", "protocol_name", "num_folds"), _cases())
def test_engine_agrees_with_the_slow_path(
    family: str, protocol_name: ProtocolName, num_folds: int
) -> None:
    model, is_packed = model_of(family)
    protocol = PROTOCOLS[protocol_name]
    rows = encode(protocol_name)
    folds = [row % num_folds for row in range(len(rows))]
    engine = Engine(model, protocol, is_packed=is_packed)

    scores, pooled = engine.baseline(rows, TOKENS_PER_BATCH, LAYERS)
    sums = pooled.sums(folds)
    slow = np.stack([reference_scores(model, row) for row in rows])
    np.testing.assert_allclose(scores.scores, slow, rtol=0, atol=TOLERANCE)
    assert scores.num_scored.tolist() == [[len(c.scored_ids) for c in r.candidates] for r in rows]

    differences = {
        layer: np.stack([reference_difference(model, r, protocol.read_at(layer)) for r in rows])
        for layer in LAYERS
    }
    for entry in sums:
        chosen = differences[entry.layer][np.asarray(folds) == entry.fold]
        gap = np.linalg.norm(entry.total - chosen.sum(axis=0))
        assert gap < TOLERANCE * np.linalg.norm(chosen, axis=1).sum()
        assert entry.num_examples == len(chosen)
    assert len(sums) == len(LAYERS) * num_folds
    points = [protocol.read_at(layer) for layer in LAYERS]
    states = np.stack([reference_states(model, row, points) for row in rows], axis=2)
    _, slow_pooled = SlowEngine(model, protocol).baseline(rows, LAYERS)
    for one in (pooled, slow_pooled):
        assert one.states is not None
        assert one.states.dtype == np.float32
        gaps = np.linalg.norm(one.states - states, axis=-1)
        assert (gaps < TOLERANCE * np.linalg.norm(states, axis=-1)).all()

    vectors = fit_mean_difference(sums, num_folds)
    cells = [Cell(layer, COEFF) for layer in LAYERS]
    steered = engine.steered(rows, TOKENS_PER_BATCH, cells, vectors, folds)
    for cell, found in zip(cells, steered, strict=True):
        own = [
            protocol.intervention(cell.layer, cell.coeff, vectors.for_fold(cell.layer, fold))
            for fold in folds
        ]
        slow_steered = np.stack(
            [reference_scores(model, row, i) for row, i in zip(rows, own, strict=True)]
        )
        np.testing.assert_allclose(found.scores, slow_steered, rtol=0, atol=TOLERANCE)
        # A cell that changed nothing would agree with anything.
        assert np.abs(found.scores - scores.scores).max() > 1e-3


WITHOUT_BLOCK_OUTPUTS = ("opt", "mamba")
"""OPT flattens what its MLP leaves; a Mamba block has no attention beside its mixer."""


@families
def test_every_site_is_steered_as_on_the_slow_path(family: str) -> None:
    """Behind a prefix that is left alone, where the family allows that."""
    model, _ = model_of(family)
    has_outputs = family not in WITHOUT_BLOCK_OUTPUTS
    assert all((o is not None) == has_outputs for o in model.layout.outputs)
    rows = encode("aligned")
    vector = np.random.default_rng(0).normal(size=model.layout.config.hidden_size)
    vectors = SteeringVectors(dict.fromkeys(LAYERS, vector.astype(np.float32)), {})
    cells, folds = [Cell(layer, COEFF) for layer in LAYERS], [0] * len(rows)
    for site in SITES if has_outputs else ("resid_pre", "resid_post"):
        protocol = replace(PROTOCOLS["aligned"], apply=site, positions="candidate")
        engine = engine_for(model, protocol)
        assert engine.reuses_prefix == (family not in NOT_PACKED)
        found = engine.steered(rows, TOKENS_PER_BATCH, cells, vectors, folds)
        wanted = SlowEngine(model, protocol).steered(rows, cells, vectors, folds)
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=TOLERANCE)


def test_cross_fitted_rows_are_steered_by_the_vector_of_their_own_fold() -> None:
    """With the vectors of two folds far apart, a row that got the other one would show."""
    model, is_packed = model_of("llama")
    protocol, rows = PROTOCOLS["aligned"], encode("aligned")
    engine = Engine(model, protocol, is_packed=is_packed)
    folds = [1, 0, 0, 1]
    _, pooled = engine.baseline(rows, TOKENS_PER_BATCH, [2])
    vectors = fit_mean_difference(pooled.sums(folds), 2)
    cell = Cell(2, COEFF)
    (right,) = engine.steered(rows, TOKENS_PER_BATCH, [cell], vectors, folds)
    (swapped,) = engine.steered(rows, TOKENS_PER_BATCH, [cell], vectors, [1 - f for f in folds])
    assert (np.abs(right.scores - swapped.scores).max(axis=1) > 1e-3).all()
