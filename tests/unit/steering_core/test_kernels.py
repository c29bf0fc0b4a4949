"""Kernels without a GPU: which modules they replace, what compiles, and the interpreter's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steering_core.engine import Engine
from steering_core.kernels.choice import choose_kernels
from steering_core.kernels.modules import RmsNorm, gated_mlps, rms_norms
from steering_core.layout import ModelLayout
from steering_core.models import LoadedModel
from steering_core.protocol import Protocol
from steersweep.errors import UserError
from tests.support.golden import on_cpu
from tests.support.tiny_models import random_model

ROOT = Path(__file__).parents[3]

GEMMA = RmsNorm(1e-6, offset=1.0, rounds_first=False)
LLAMA = RmsNorm(1e-6, offset=0.0, rounds_first=True)


def needs_triton(since: str | None = None) -> None:
    pytest.importorskip("triton", since, reason=f"needs the package triton {since or ''}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_kernels_compute_in_tritons_interpreter() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    needs_triton("3.9")  # before, its interpreter does not know numpy 2.4
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/interpreted"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With registers to spare, on tensor cores, and with loads of 16 bytes."""
    needs_triton()
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton interprets kernels in this process")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from tests.support.compiled_kernels import MOST_SHARED_BYTES, facts, programs

    names = []
    for name, program in programs("bf16"):
        _registers, spilled_bytes, shared_bytes, instructions = facts(program)
        assert spilled_bytes == 0, name
        assert shared_bytes <= MOST_SHARED_BYTES, name
        assert any("v4.b32" in i or "cp.async.cg" in i for i in instructions), (name, instructions)
        if "attention" in name:
            assert "wgmma.mma" in instructions, name
        names.append(name.partition(",")[0])
    assert set(names) == {"attention", "gated_mlp", "log_sum_exp", "rms_norm"}


def random_layout(family: str, dtype: torch.dtype) -> ModelLayout:
    """With weights of norms that are not all one, or two formulas would be the same."""
    module = random_model(family, 100, num_hidden_layers=2, layer_types=None)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter += 0.1 * torch.randn_like(parameter)
    return on_cpu(module.to(dtype), family).layout


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "norm", "num_norms", "activation"),
    [
        ("gemma2", GEMMA, 9, "gelu_tanh"),
        ("gemma3_text", GEMMA, 13, "gelu_tanh"),
        ("llama", LLAMA, 5, "silu"),
        ("qwen3", LLAMA, 9, "silu"),
        ("olmo2", RmsNorm(1e-5, offset=0.0, rounds_first=False), 9, "silu"),
        ("gpt_neox", None, 0, None),
    ],
)
def test_modules_are_found_by_what_they_compute(
    family: str, norm: RmsNorm | None, num_norms: int, activation: str | None, dtype: torch.dtype
) -> None:
    layout = random_layout(family, dtype)
    assert list(rms_norms(layout, dtype).values()) == num_norms * [norm]
    mlps = gated_mlps(layout, dtype)
    assert [mlp.activation for mlp in mlps.values()] == (2 * [activation] if activation else [])
    for module, mlp in mlps.items():
        assert (mlp.gate, mlp.up) == (module.gate_proj, module.up_proj)


class OddNorm(nn.Module):
    """Like an RMS norm in everything but one detail."""

    def __init__(self, detail: str) -> None:
        super().__init__()
        self.weight, self.eps, self.detail = nn.Parameter(torch.randn(64)), 1e-6, detail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.detail == "centered":
            x = x - x.mean(-1, keepdim=True)
        eps = 1e-4 if self.detail == "another eps" else self.eps
        normed = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
        if self.detail == "wider output":
            return normed * self.weight.float()
        return (normed * self.weight.float() * (1.02 if self.detail == "scaled" else 1)).to(x.dtype)


class OddMlp(nn.Module):
    """Like a gated MLP in everything but its activation."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 96), nn.Linear(64, 96)
        self.c, self.activation = nn.Linear(96, 64), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = {
            "relu": F.relu, "gelu": F.gelu, "sigmoid": torch.sigmoid, "silu": F.silu,
        }[self.activation](self.b(x))  # fmt: skip
        return self.c(self.a(x) * activated)


def layout_of(module: nn.Module) -> ModelLayout:
    module = module.to(torch.float16).requires_grad_(False)
    return ModelLayout(decoder=nn.ModuleList([module]), blocks=(), final=(), head=nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("detail", "is_found"),
    [("", True)] + [(d, False) for d in ("centered", "another eps", "scaled", "wider output")],
)
def test_a_module_that_computes_something_else_is_no_norm(detail: str, is_found: bool) -> None:
    assert bool(rms_norms(layout_of(OddNorm(detail)), torch.float16)) == is_found


@pytest.mark.parametrize("activation", ["relu", "gelu", "sigmoid", "silu"])
def test_a_module_with_another_activation_is_no_gated_mlp(activation: str) -> None:
    """And names do not matter: here the gate is ``b``."""
    module = OddMlp(activation)
    found = gated_mlps(layout_of(module), torch.float16)
    assert [mlp.gate for mlp in found.values()] == ([module.b] if activation == "silu" else [])


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return on_cpu(random_model("llama", 100), "llama")


def test_an_engine_without_cuda_runs_no_kernel(llama: LoadedModel) -> None:
    assert Engine(llama, Protocol()).kernels == ()
    with pytest.raises(UserError, match="need a CUDA device, and the model is on device cpu"):
        Engine(llama, Protocol(), kernels=["rms_norm"])


def test_off_cuda_no_kernel_is_chosen(llama: LoadedModel) -> None:
    choice = choose_kernels(llama)
    assert (choice.names, choice.checks) == ((), {})
    assert "CUDA" in (choice.reason or "")
