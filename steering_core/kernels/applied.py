"""Kernels in the place of a model's own code, while the engine's passes run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steering_core.kernels import KERNELS
from steering_core.kernels.modules import GatedMlp, RmsNorm, gated_mlps, rms_norms
from steering_core.models import LoadedModel
from steering_core.replay import forward_replaced
from steering_core.scoring import AddLogSumExp
from steersweep.errors import UserError

_HALF = (torch.bfloat16, torch.float16)

Replacement = tuple[nn.Module, Callable[..., Tensor], tuple[nn.Module, ...]]
"""A module, what it computes with, and what is inside of it that would no longer be called."""


def why_not(model: LoadedModel) -> str | None:
    """Why no kernel can run for this model here, as the end of a sentence; None if they can."""
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if model.device.type != "cuda" and not is_interpreted:
        return f"kernels need a CUDA device, and the model is on device {model.device.type}"
    if model.dtype not in _HALF:
        dtype = str(model.dtype).removeprefix("torch.")
        return f"kernels are for bfloat16 and float16, and the model is in {dtype}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if len({p.device for p in model.module.parameters()}) > 1:
        return "the model is spread over several devices"
    return None


class AppliedKernels:
    """Some kernels of a model. Triton is imported, and modules are looked for, when this is made.

    Args:
        names: of ``KERNELS``.
        is_packed: whether rows run as trees; only then are masks the engine's own, which the
            attention kernel needs.

    Raises:
        UserError: an unknown name, or a kernel that this model, device or dtype cannot use.
    """

    def __init__(
        self, model: LoadedModel, names: Collection[str], *, is_packed: bool = True
    ) -> None:
        self.names = tuple(sorted(set(names)))
        self._layout = model.layout
        self._forwards: list[Replacement] = []
        if not self.names:
            return
        if unknown := set(names) - set(KERNELS):
            raise UserError(f"no kernel {', '.join(sorted(unknown))}; there are {KERNELS}")
        if (reason := why_not(model)) is not None:
            raise UserError(f"{model.name}: cannot use kernels ({', '.join(self.names)}): {reason}")
        if "attention" in self.names and not is_packed:
            raise UserError(f"{model.name}: the attention kernel needs packed rows")
        if "log_sum_exp" in self.names and type(model.layout.head) is not nn.Linear:
            raise UserError(f"{model.name}: the kernel log_sum_exp needs a head that is nn.Linear")
        if "rms_norm" in self.names:
            self._add("rms_norm", _norm_forwards(rms_norms(model.layout, model.dtype)))
        if "gated_mlp" in self.names:
            self._add("gated_mlp", _mlp_forwards(gated_mlps(model.layout, model.dtype)))

    def _add(self, name: str, forwards: list[Replacement]) -> None:
        if not forwards:
            raise UserError(f"the model has no module that the kernel {name} could replace")
        self._forwards += forwards

    @property
    def add_log_sum_exp(self) -> AddLogSumExp | None:
        """What takes in a slice of the head's products, see ``scored_log_probs``."""
        if "log_sum_exp" not in self.names:
            return None
        from steering_core.kernels.log_sum_exp import add_log_sum_exp

        scale, cap = self._layout.logit_scale, self._layout.logit_softcap
        return lambda log_norm_M, products_MC: add_log_sum_exp(
            log_norm_M, products_MC, scale=scale, cap=cap
        )

    @contextmanager
    def open(self) -> Iterator[None]:
        """While open, the model's modules compute with the kernels; their hooks run as before."""
        with ExitStack() as stack:
            for module, forward, inside in self._forwards:
                if not any(map(_has_hooks, inside)):
                    stack.enter_context(forward_replaced(module, forward))
            if "attention" in self.names:
                from steering_core.kernels.attention import attend_in_kernel, attention_by

                stack.enter_context(attention_by(self._layout, attend_in_kernel))
            yield


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _norm_forwards(norms: dict[nn.Module, RmsNorm]) -> list[Replacement]:
    from steering_core.kernels.rms_norm import rms_norm

    def forward_of(module: nn.Module, norm: RmsNorm) -> Callable[..., Tensor]:
        ((name, _),) = module.named_parameters()
        return lambda x: rms_norm(x, getattr(module, name), norm)

    return [(module, forward_of(module, norm), ()) for module, norm in norms.items()]


def _mlp_forwards(mlps: dict[nn.Module, GatedMlp]) -> list[Replacement]:
    from steering_core.kernels.gated_mlp import gated_product

    def forward_of(mlp: GatedMlp) -> Callable[..., Any]:
        return lambda x: mlp.down(gated_product(mlp.gate(x), mlp.up(x), mlp.activation))

    return [(module, forward_of(mlp), mlp.others) for module, mlp in mlps.items()]
