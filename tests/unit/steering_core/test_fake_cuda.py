"""The engine on CUDA tensors that are not there: no devices or dtypes are mixed, nothing waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from steering_core import engine as engine_module
from steering_core import pooling
from steering_core.engine import Cell, Engine
from steering_core.layout import find_layout
from steering_core.protocol import PROTOCOLS
from steering_core.vectors import SteeringVectors
from tests.support.fake_cuda import CUDA, fake_cuda, on_fake_cuda
from tests.support.golden import encode_group
from tests.support.tiny_models import random_model

FAMILIES = ("gemma2", "llama")
"""With soft-caps, windows and attention of our own, and with SDPA; others at night."""
FAMILIES_AT_NIGHT = ("gemma3_text", "qwen2", "gpt2")
PUBLISHED = PROTOCOLS["as_published"]
VECTORS = SteeringVectors({layer: np.ones(64, np.float32) for layer in (2, 4)}, {})


def test_fake_tensors_refuse_what_cuda_refuses_or_waits_for() -> None:
    with fake_cuda():
        here, index = torch.zeros(2, 3, device=CUDA), torch.tensor([[0, 1]])
        assert here[:, None, 1:].shape == (2, 1, 2)
        assert (~(here[..., 0] > 0)).device == CUDA
        with pytest.raises(RuntimeError, match="devices, cuda:0 and cpu"):
            here + torch.zeros(2, 3)
        with pytest.raises(RuntimeError, match="devices, cuda:0 and cpu"):
            here.gather(1, index)
        with pytest.raises(RuntimeError, match="matrices of"):
            here @ here.T.bfloat16()
        with pytest.raises(RuntimeError, match="matrices of"):
            torch.nn.functional.linear(here.bfloat16(), here)
        with pytest.raises(DataDependentOutputException):
            bool((here > 0).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "family",
    [*FAMILIES, *(pytest.param(family, marks=pytest.mark.nightly) for family in FAMILIES_AT_NIGHT)],
)
@pytest.mark.parametrize("how", ["packed", "separate", "static", "kept prefix"])
def test_everything_up_to_the_read_runs_on_the_device(
    how: str, family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[torch.Tensor] = []

    def fetch(tensor: torch.Tensor) -> Any:
        fetched.append(tensor)
        return lambda: np.zeros(tuple(tensor.shape))

    monkeypatch.setattr(engine_module, "fetch", fetch)
    monkeypatch.setattr(pooling, "fetch", fetch)
    protocol = replace(PUBLISHED, positions="candidate") if how == "kept prefix" else PUBLISHED
    rows = encode_group("gemma2-tiny", "intersentence", "race", protocol)[:3]
    module = random_model(family, 512)
    layout = find_layout(module, family)
    with fake_cuda():
        model = on_fake_cuda(module, layout, dtype)
        engine = Engine(
            model,
            protocol,
            is_packed=how != "separate",
            reuses_prefix=how == "kept prefix",
            is_static=how == "static",
            measures=["kl"],
        )
        engine.baseline(rows, 1024, (2, 4))
        engine.steered(rows, 1024, [Cell(2, 1.0), Cell(4, -1.0)], VECTORS)
    assert fetched
    assert {tensor.device for tensor in fetched} == {CUDA}
