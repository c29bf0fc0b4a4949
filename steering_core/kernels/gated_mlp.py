"""The gated product of an MLP: activation(gate) * up, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from steering_core.kernels.modules import Activation

_BLOCK, _NUM_WARPS = 2048, 8


def gated_product(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """``activation(gate) * up``, of the shape and dtype of ``gate``, contiguous.

    The activation is computed in float32 and rounded before the product, as torch does.

    Args:
        gate, up: bfloat16 or float16, of one shape; not changed.
        activation: ``silu``: g * sigmoid(g); ``gelu_tanh``: 0.5 g (1 + tanh(z)) with
            z = sqrt(2/pi) (g + 0.044715 g^3), which is g * sigmoid(2 z).
    """
    gate, up = gate.contiguous(), up.contiguous()
    output = torch.empty_like(gate)
    num_elements = gate.numel()
    if num_elements == 0:
        return output
    _gated_product[(triton.cdiv(num_elements, _BLOCK),)](
        gate,
        up,
        output,
        num_elements,
        IS_GELU=activation == "gelu_tanh",
        BLOCK=_BLOCK,
        num_warps=_NUM_WARPS,
    )
    return output


# The number of elements is specialized: whether it is a multiple of 16 decides whether loads are
# of 16 bytes, and the MLPs of a model have one width, so there is one program.
@triton.jit
def _gated_product(gates, ups, outputs, num_elements, IS_GELU: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_elements
    loaded = tl.load(gates + at, mask=inside, other=0.0)
    gate = loaded.to(tl.float32)
    z = gate
    if IS_GELU:
        z = 2.0 * 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    active = gate / (1.0 + tl.exp(-z))
    up = tl.load(ups + at, mask=inside, other=0.0).to(tl.float32)
    product = active.to(loaded.dtype).to(tl.float32) * up
    tl.store(outputs + at, product.to(loaded.dtype), mask=inside)
