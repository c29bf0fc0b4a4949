"""Finds a model's RMS norms and gated MLPs by their structure and by what they compute.

No family is known by name. A module counts only if one of a few formulas gives its output, on
random input of several sizes.

Shapes: N vectors of width D, I width inside of an MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steering_core.layout import ModelLayout

Activation = Literal["gelu_tanh", "silu", "gelu"]
"""``gelu`` has no kernel: it is known so that it is not taken for ``gelu_tanh``."""
Formula = TypeVar("Formula")

_SIZES = (1e-3, 1.0, 4.0)
"""Of the random inputs: eps shows in the smallest, the activation in the others."""
_NUM_VECTORS = 8


@dataclass(frozen=True)
class RmsNorm:
    """``x / sqrt(mean(x^2) + eps) * (weight + offset)``, computed in float32.

    Attributes:
        offset: 1.0 for Gemma, 0.0 for others.
        rounds_first: whether the quotient is rounded to the dtype of x before the weight (Llama,
            Qwen), or the whole result once (Gemma).
    """

    eps: float
    offset: float
    rounds_first: bool

    def plain(self, x: Tensor, weight_D: Tensor) -> Tensor:
        """The formula in torch, in the dtype of ``x``."""
        normed = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        if self.rounds_first:
            normed = normed.to(x.dtype).float()
        return (normed * (weight_D.float() + self.offset)).to(x.dtype)


@dataclass(frozen=True)
class GatedMlp:
    """``down(activation(gate(x)) * up(x))``.

    Attributes:
        others: further submodules, whose hooks would not run if the product is a kernel's.
    """

    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    activation: Activation
    others: tuple[nn.Module, ...] = ()


_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "gelu": F.gelu,
}


def plain_product(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """``activation(gate) * up`` in torch."""
    return _ACTIVATIONS[activation](gate) * up


def rms_norms(layout: ModelLayout, dtype: torch.dtype) -> dict[nn.Module, RmsNorm]:
    """The model's RMS norms, for streams of a dtype, in its order of modules."""
    found = {module: _rms_norm_of(module, dtype) for module in layout.decoder.modules()}
    return {module: norm for module, norm in found.items() if norm is not None}


def gated_mlps(layout: ModelLayout, dtype: torch.dtype) -> dict[nn.Module, GatedMlp]:
    """The model's gated MLPs, for streams of a dtype, in its order of modules."""
    found = {module: _gated_mlp_of(module, dtype) for module in layout.decoder.modules()}
    return {module: mlp for module, mlp in found.items() if mlp is not None}


def _rms_norm_of(module: nn.Module, dtype: torch.dtype) -> RmsNorm | None:
    parameters = list(module.parameters())
    if len(parameters) != 1 or parameters[0].dim() != 1 or any(True for _ in module.children()):
        return None
    weight_D = parameters[0]
    eps_values = {v for v in vars(module).values() if isinstance(v, float) and 0 < v < 0.01}
    inputs = _random(len(weight_D), weight_D.device, dtype)
    outputs = [_output(module, x) for x in inputs]
    formulas = [
        RmsNorm(eps, offset, rounds_first)
        for eps, offset, rounds_first in product(sorted(eps_values), (0.0, 1.0), (False, True))
    ]
    return _best(
        formulas,
        lambda norm: [norm.plain(x, weight_D) for x in inputs],
        outputs,
    )


def _gated_mlp_of(module: nn.Module, dtype: torch.dtype) -> GatedMlp | None:
    linears = [child for child in module.children() if isinstance(child, nn.Linear)]
    others = tuple(child for child in module.children() if not isinstance(child, nn.Linear))
    if len(linears) != 3 or any(True for other in others for _ in other.parameters()):
        return None
    roles = [
        (gate, up, down)
        for gate, up, down in permutations(linears)
        if gate.weight.shape == up.weight.shape == down.weight.shape[::-1]
    ]
    if not roles:
        return None
    inputs = _random(roles[0][0].in_features, linears[0].weight.device, dtype)
    outputs = [_output(module, x) for x in inputs]
    formulas = [
        GatedMlp(*role, activation, others) for role, activation in product(roles, _ACTIVATIONS)
    ]

    def plain(mlp: GatedMlp) -> list[Tensor]:
        gate, up, down = (linear.forward for linear in (mlp.gate, mlp.up, mlp.down))
        return [down(plain_product(gate(x), up(x), mlp.activation)) for x in inputs]

    found = _best(formulas, plain, outputs)
    return None if found is None or found.activation == "gelu" else found


def _random(width: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Vectors [N, D] of each size, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    unit_ND = torch.randn(_NUM_VECTORS, width, generator=generator)
    return [(size * unit_ND).to(device, dtype) for size in _SIZES]


def _output(module: nn.Module, x: Tensor) -> Tensor | None:
    """What a module's forward gives, without its hooks; None if it wants something else."""
    try:
        with torch.inference_mode():
            output = module.forward(x)
    except Exception:  # an unknown module may refuse in any way
        return None
    return output if isinstance(output, Tensor) else None


def _best(
    formulas: list[Formula],
    plain: Callable[[Formula], list[Tensor]],
    outputs: list[Tensor | None],
) -> Formula | None:
    """The formula that comes nearest to the outputs, if it gives them up to rounding."""
    nearest, smallest = None, 1.0
    for formula in formulas:
        with torch.inference_mode():
            gap = max(map(_gap, plain(formula), outputs), default=1.0)
        if gap < smallest:
            nearest, smallest = formula, gap
    return nearest


def _gap(found: Tensor, wanted: Tensor | None) -> float:
    """Distance in units of what rounding may explain; below 1 the two agree."""
    if wanted is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    size = wanted.float().norm()
    gap = (found.float() - wanted.float()).norm()
    return float(gap / (torch.finfo(wanted.dtype).eps * size + 1e-30))
