"""A device that runs out of memory: halves of the batch, the same scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from steering_core.engine import Cell, Engine
from steering_core.protocol import PROTOCOLS
from steering_core.vectors import fit_mean_difference
from tests.support.golden import encode_group, golden_model

PUBLISHED = PROTOCOLS["as_published"]
ALL_IN_ONE_BATCH = 4096
BLOCK = 2


class SmallDevice:
    """A block that holds a few sequences; more are out of memory, half-way through a batch."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.refused: list[int] = []
        self.held: list[int] = []

    def __call__(self, _module: object, args: tuple[torch.Tensor, ...], _kwargs: Any) -> None:
        sequences = len(args[0])
        (self.refused if sequences > self.most else self.held).append(sequences)
        if sequences > self.most:
            raise torch.OutOfMemoryError("planted")


def _engine(device: SmallDevice) -> tuple[Engine, Any]:
    model = golden_model("gemma2-tiny")
    block = model.layout.blocks[BLOCK]
    return Engine(model, PUBLISHED), block.register_forward_pre_hook(device, with_kwargs=True)


def test_a_batch_that_does_not_fit_is_halved_with_the_same_results() -> None:
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    cells = [Cell(2, 5.0), Cell(4, 5.0)]
    whole = Engine(golden_model("gemma2-tiny"), PUBLISHED)
    wanted, pooled = whole.baseline(rows, ALL_IN_ONE_BATCH, [2, 4])
    vectors = fit_mean_difference(pooled.sums(), 1)
    wanted_steered = whole.steered(rows, ALL_IN_ONE_BATCH, cells, vectors)

    device = SmallDevice(most=1)
    engine, hook = _engine(device)
    try:
        found, halved = engine.baseline(rows, ALL_IN_ONE_BATCH, [2, 4])
        refused = list(device.refused)
        steered = engine.steered(rows, ALL_IN_ONE_BATCH, cells, vectors)
    finally:
        hook.remove()
    assert refused[0] == len(rows) > 1
    assert set(device.held) == {1}
    # What did not fit once is not tried again.
    assert device.refused == refused
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(found.num_scored, wanted.num_scored)
    np.testing.assert_allclose(halved.differences, pooled.differences, rtol=0, atol=1e-5)
    for ours, theirs in zip(steered, wanted_steered, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-5)


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)
    engine, hook = _engine(SmallDevice(most=0))
    try:
        with pytest.raises(torch.OutOfMemoryError, match="planted"):
            engine.baseline(rows, ALL_IN_ONE_BATCH)
    finally:
        hook.remove()
