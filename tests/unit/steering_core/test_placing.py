"""Copies to the host: started before the next batch is queued, waited for when they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from steering_core import engine as engine_module
from steering_core import pooling
from steering_core.engine import Cell, Engine
from steering_core.placing import fetch
from steering_core.protocol import PROTOCOLS
from steering_core.vectors import fit_mean_difference
from tests.support.golden import encode_group, golden_model

PUBLISHED = PROTOCOLS["as_published"]


def test_on_the_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(3.0)
    assert np.shares_memory(fetch(tensor)(), tensor.numpy())


def test_cuda_copies_into_pinned_memory_and_waits_for_that_copy_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CUDA tensor that is not there: what is asked of CUDA, in which order."""
    asked: list[str] = []

    class Event:
        def record(self, stream: str) -> None:
            asked.append(f"record on {stream}")

        def synchronize(self) -> None:
            asked.append("synchronize")

    made_by_torch = torch.empty

    def empty(*args: Any, pin_memory: bool, **options: Any) -> torch.Tensor:
        asked.append(f"pinned: {pin_memory}")
        return made_by_torch(*args, **options)

    def copy_(into: torch.Tensor, _source: torch.Tensor, *, non_blocking: bool) -> None:
        asked.append(f"copy to {into.device}, non-blocking: {non_blocking}")

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: np.zeros(self.shape))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    with FakeTensorMode():
        values = fetch(made_by_torch(2, 3, device="cuda:1"))
        assert asked == [
            "pinned: True",
            "copy to cpu, non-blocking: True",
            "record on the stream of cuda:1",
        ]
        assert values().shape == (2, 3)
    assert asked[3:] == ["synchronize"]


@pytest.mark.parametrize("what", ["baseline", "steered"])
def test_a_batch_is_on_its_way_to_the_host_before_the_next_one_begins(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Read only then: a copy that is started when it is read waits for the next batch."""
    model = golden_model("gemma2-tiny")
    rows = encode_group("gemma2-tiny", "intersentence", "race", PUBLISHED)[:3]
    engine, tokens = Engine(model, PUBLISHED), 1  # a batch for each row
    wanted, pooled = engine.baseline(rows, tokens, [2])
    vectors = fit_mean_difference(pooled.sums(), 1)
    steps: list[str] = []

    def noted(tensor: torch.Tensor) -> Callable[[], np.ndarray]:
        steps.append("copy")
        values = fetch(tensor)

        def read() -> np.ndarray:
            steps.append("read")
            return values()

        return read

    monkeypatch.setattr(engine_module, "fetch", noted)
    monkeypatch.setattr(pooling, "fetch", noted)
    hook = model.layout.decoder.register_forward_pre_hook(lambda *_: steps.append("batch"))
    try:
        if what == "baseline":
            scores, _ = engine.baseline(rows, tokens, [2])
            np.testing.assert_array_equal(scores.scores, wanted.scores)
        else:
            engine.steered(rows, tokens, [Cell(2, 1.0)], vectors)
    finally:
        hook.remove()
    # Scores, three sums of the layer, and the norms of its stream.
    copies = ["copy"] * (5 if what == "baseline" else 1)
    reads = ["read"] * len(copies)
    batch = ["batch", *copies]
    assert steps == [*batch, *batch, *reads, *batch, *reads, *reads]
