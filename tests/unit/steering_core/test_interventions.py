"""Operations against their formulas in numpy, where they act, and the positions they touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from steering_core.encoding import EncodedExample
from steering_core.engine import Cell, Engine, Scores
from steering_core.hook_points import SITES, HookPoint, Site
from steering_core.interventions import OPERATIONS, Intervention, Positions, intervene
from steering_core.packing import batches
from steering_core.protocol import PROTOCOLS, Protocol
from steering_core.reference import reference_scores
from steering_core.slow_engine import SlowEngine
from steering_core.vectors import SteeringVectors
from tests.support.golden import encode_group, golden_model

STREAM = np.random.default_rng(0).normal(size=(4, 7, 16)).astype(np.float32)
VECTOR = (3 * np.random.default_rng(1).normal(size=16)).astype(np.float32)
POSITIONS: tuple[Positions, ...] = ("all", "question", "candidate", "last")


def _steered(operation: str, coeff: float, vector: np.ndarray = VECTOR) -> np.ndarray:
    return intervene(operation, torch.tensor(STREAM), torch.tensor(vector), coeff).numpy()


def _projection(stream: np.ndarray) -> np.ndarray:
    return stream.astype(np.float64) @ (VECTOR.astype(np.float64) / np.linalg.norm(VECTOR))


def test_add_moves_by_the_vector() -> None:
    np.testing.assert_allclose(_steered("add", -2.5), STREAM - 2.5 * VECTOR, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_projecting_out_leaves_the_rest_of_the_projection(share: float) -> None:
    after = _steered("project_out", share)
    np.testing.assert_allclose(_projection(after), (1 - share) * _projection(STREAM), atol=1e-5)
    _only_along_the_vector(after)


@pytest.mark.parametrize("limit", [-0.5, 0.0, 0.7])
@pytest.mark.parametrize(
    ("operation", "cap"), [("cap_above", np.minimum), ("cap_below", np.maximum)]
)
def test_a_cap_bounds_the_projection_and_leaves_the_rest(
    operation: str, cap: np.ufunc, limit: float
) -> None:
    after = _steered(operation, limit)
    np.testing.assert_allclose(_projection(after), cap(_projection(STREAM), limit), atol=1e-5)
    _only_along_the_vector(after)
    inside = np.isclose(cap(_projection(STREAM), limit), _projection(STREAM))
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(after[inside], STREAM[inside])


def _only_along_the_vector(after: np.ndarray) -> None:
    unit = VECTOR / np.linalg.norm(VECTOR)
    change = after - STREAM
    np.testing.assert_allclose(change - (change @ unit)[..., None] * unit, 0.0, atol=1e-5)


def test_the_caps_are_each_other_with_the_sign_turned() -> None:
    np.testing.assert_allclose(
        _steered("cap_below", 0.4), _steered("cap_above", -0.4, -VECTOR), atol=1e-6
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_dtype_and_input_stay_and_a_vector_of_zero_changes_nothing(operation: str) -> None:
    stream = torch.tensor(STREAM).bfloat16()
    before = stream.clone()
    after = intervene(operation, stream, torch.zeros(16), 1.0)
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(stream, before, rtol=0, atol=0)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


WAYS = {
    "packed": {},
    "prefix reused": {"reuses_prefix": True},
    "separate": {"is_packed": False},
}
SOME_OPERATIONS: list[tuple[str, float]] = [
    ("add", 3.0),
    ("project_out", 1.0),
    ("cap_below", 2.0),
    ("cap_above", -2.0),
]


def _published(**changes: Any) -> tuple[Protocol, tuple[EncodedExample, ...]]:
    """A protocol, and rows of several lengths."""
    protocol = replace(PROTOCOLS["as_published"], **changes)
    return protocol, encode_group("gemma2-tiny", "intersentence", "race", protocol)


def _vectors(layers: Sequence[int]) -> SteeringVectors:
    rng = np.random.default_rng(2)
    width = golden_model("gemma2-tiny").layout.config.hidden_size
    return SteeringVectors({n: rng.normal(size=width).astype(np.float32) for n in layers}, {})


@cache  # one by one takes longer than all the ways of the engine
def _one_by_one(protocol: Protocol, coeff: float) -> list[Scores]:
    model, (_, rows) = golden_model("gemma2-tiny"), _published()
    vectors = _vectors((1, 4, 6))
    cells = [Cell(layer, coeff) for layer in vectors.whole]
    return SlowEngine(model, protocol).steered(rows, cells, vectors, [0] * len(rows))


def _assert_as_one_by_one(protocol: Protocol, coeff: float, way: str) -> None:
    model, (_, rows) = golden_model("gemma2-tiny"), _published()
    vectors, folds = _vectors((1, 4, 6)), [0] * len(rows)
    engine, wanted = Engine(model, protocol, **WAYS[way]), _one_by_one(protocol, coeff)
    unsteered, _ = engine.baseline(rows, 1024)
    cells = [Cell(layer, coeff) for layer in vectors.whole]
    # Each cell twice: what one leaves behind must not reach the next.
    found = engine.steered(rows, 1024, [*cells, *cells], vectors, folds)
    for ours, theirs in zip(found, [*wanted, *wanted], strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-5)
        assert np.abs(ours.scores - unsteered.scores).max() > 1e-3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(("operation", "coeff"), SOME_OPERATIONS)
def test_the_engine_steers_as_one_by_one(
    operation: str, coeff: float, positions: str, way: str
) -> None:
    protocol, _ = _published(operation=operation, positions=positions)
    _assert_as_one_by_one(protocol, coeff, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("operation", "coeff"), SOME_OPERATIONS)
def test_the_engine_steers_at_any_site_as_one_by_one(
    operation: str, coeff: float, site: Site, way: str
) -> None:
    protocol, _ = _published(operation=operation, apply=site, positions="candidate")
    _assert_as_one_by_one(protocol, coeff, way)


@pytest.mark.parametrize("site", SITES)
def test_states_are_pooled_at_any_site(site: Site) -> None:
    protocol, rows = _published(read=site)
    model = golden_model("gemma2-tiny")
    _, pooled = Engine(model, protocol).baseline(rows, 1024, [1, 6])
    _, wanted = SlowEngine(model, protocol).baseline(rows, [1, 6])
    np.testing.assert_allclose(pooled.differences, wanted.differences, rtol=0, atol=1e-4)
    assert np.abs(wanted.differences).max() > 0.01


def _mixed(num: int) -> list[Intervention]:
    """Interventions of which no two are alike."""
    rng = np.random.default_rng(3)
    width = golden_model("gemma2-tiny").layout.config.hidden_size
    kinds = list(product(SOME_OPERATIONS, SITES, POSITIONS))
    return [
        Intervention(
            point=HookPoint(int(rng.integers(6)), site),
            vector=rng.normal(size=width).astype(np.float32),
            coeff=coeff * float(rng.uniform(0.5, 1.5)),
            operation=operation,
            positions=positions,
        )
        for (operation, coeff), site, positions in (
            kinds[k] for k in rng.permutation(len(kinds))[:num]
        )
    ]


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "separate"])
def test_each_row_of_a_batch_is_steered_in_its_own_way(is_packed: bool) -> None:
    model, (protocol, rows) = golden_model("gemma2-tiny"), _published()
    rows = rows * 4
    mixed = _mixed(len(rows))
    found = Engine(model, protocol, is_packed=is_packed).side_by_side(rows, 4096, mixed)
    wanted = np.stack([reference_scores(model, r, i) for r, i in zip(rows, mixed, strict=True)])
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=1e-5)
    unsteered = np.stack([reference_scores(model, row) for row in rows])
    # A cap may find nothing beyond it.
    assert (np.abs(wanted - unsteered).max(axis=1) > 1e-4).mean() > 0.9


def test_positions_of_a_row_do_not_overlap_and_cover_it() -> None:
    """Steering the question alone and the candidate alone are two different things."""
    rows = encode_group("gemma2-tiny", "intersentence", "race", PROTOCOLS["as_published"])
    (batch,) = batches(rows, 4096)
    is_token = batch.branch >= 0
    question, candidate = batch.steered_at("question"), batch.steered_at("candidate")
    assert not (question & candidate & is_token).any()
    assert ((question | candidate) | ~is_token).all()
    assert (batch.steered_at("last") & ~question & is_token).sum() == 0
    assert (batch.steered_at("last") & is_token).any(axis=1).all()
