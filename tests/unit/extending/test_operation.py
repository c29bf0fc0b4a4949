"""A new operation: its formula for the reference, and its terms for the engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.stereoset.page.ran import ran
from steering_core.engine import Cell, Engine
from steering_core.interventions import OPERATIONS, Operation, intervene, registered
from steering_core.protocol import PROTOCOLS
from steering_core.slow_engine import SlowEngine
from steering_core.vectors import SteeringVectors
from tests.support.golden import encode_group, golden_model
from tests.support.pages import facts_of, record_of, summary_of

SET_TO = Operation(
    words="the projection on the vector is set to the coefficient",
    terms=lambda c: (c, -1.0, -float("inf"), float("inf")),
    trial_coeff=2.0,
    amount=lambda p, c: c - p,
)


@pytest.fixture(autouse=True)
def set_to() -> Iterator[None]:
    with registered("set_to", SET_TO):
        yield


def test_it_does_what_its_words_say() -> None:
    stream, vector = torch.randn(2, 5, 8), 3 * torch.randn(8)
    unit = vector / vector.norm()
    after = intervene("set_to", stream, vector, 2.0)
    torch.testing.assert_close(after @ unit, torch.full((2, 5), 2.0))
    rest_before, rest_after = (x - (x @ unit)[..., None] * unit for x in (stream, after))
    torch.testing.assert_close(rest_after, rest_before)


@pytest.mark.parametrize("protocol_name", ["as_published", "aligned"])
def test_the_engine_steers_as_the_slow_reference_does(protocol_name: str) -> None:
    model = golden_model("gemma2-tiny")
    protocol = replace(PROTOCOLS[protocol_name], operation="set_to")
    rows = encode_group("gemma2-tiny", "intersentence", "race", protocol)
    width = model.layout.config.hidden_size
    vector = np.random.default_rng(0).normal(size=width).astype(np.float32)
    vectors, cells = SteeringVectors({3: vector}, {}), [Cell(3, -2.0), Cell(3, 2.0)]
    engine, folds = Engine(model, protocol), [0] * len(rows)
    unsteered, _ = engine.baseline(rows, 1024)
    wanted = SlowEngine(model, protocol).steered(rows, cells, vectors, folds)
    found = engine.steered(rows, 1024, cells, vectors, folds)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-5)
        assert np.abs(ours.scores - unsteered.scores).max() > 1e-3


def test_the_page_says_what_steering_did() -> None:
    steering = {"layers": [1], "coeffs": ["2"], "apply": "resid_post", "positions": "all"}
    record = record_of(steering={**steering, "operation": "set_to"})
    told = dict(ran(facts_of(summary_of(), record)).terms)
    assert told["Steering"].startswith(SET_TO.words)


@pytest.mark.parametrize("name", [*OPERATIONS])
def test_the_terms_of_each_operation_are_its_amount(name: str) -> None:
    operation, projections = OPERATIONS[name], torch.linspace(-5, 5, 41)
    for coeff in (-3.0, 0.0, 0.5, 2.0):
        offset, slope, low, high = operation.terms(coeff)
        of_engine = (offset + slope * projections).clamp(low, high)
        of_reference = (
            torch.full_like(projections, coeff)
            if operation.amount is None
            else operation.amount(projections, coeff)
        )
        torch.testing.assert_close(of_engine, of_reference)
