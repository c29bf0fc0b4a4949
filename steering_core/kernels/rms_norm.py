"""Root mean square norms, one pass over the stream.

Shapes: N vectors of width D.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from steering_core.kernels.modules import RmsNorm

_ELEMENTS = 2048
"""Of one program; a narrow norm takes several vectors at a time."""


def rms_norm(x: Tensor, weight_D: Tensor, norm: RmsNorm) -> Tensor:
    """The norm of the last dimension, in the dtype of ``x``, contiguous; see ``RmsNorm``.

    Args:
        x: [..., D] bfloat16 or float16; not changed.
        weight_D: [D] in any float dtype.
    """
    width = x.shape[-1]
    flat_ND = x.reshape(-1, width)
    if flat_ND.stride(1) != 1:
        flat_ND = flat_ND.contiguous()
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(width)
    rows = max(1, _ELEMENTS // block)
    num_rows = len(flat_ND)
    if num_rows == 0:
        return output
    _rms_norm[(triton.cdiv(num_rows, rows),)](
        flat_ND,
        weight_D,
        output,
        flat_ND.stride(0),
        num_rows,
        width,
        float(norm.eps),
        OFFSET=norm.offset,
        ROUNDS_FIRST=norm.rounds_first,
        ROWS=rows,
        BLOCK=block,
        num_warps=8 if block >= 4096 else 4,
    )
    return output


# The width is specialized, as a model has few; the number of vectors changes with every batch.
@triton.jit(do_not_specialize=["num_rows"])
def _rms_norm(
    inputs,
    weights,
    outputs,
    row_stride,
    num_rows,
    width,
    eps,
    OFFSET: tl.constexpr,
    ROUNDS_FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program for ROWS vectors."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < num_rows) & (column < width)
    loaded = tl.load(inputs + row * row_stride + column, mask=inside, other=0.0)
    x = loaded.to(tl.float32)
    mean_square = tl.sum(x * x, axis=1) / width
    x = x * tl.rsqrt(mean_square + eps)[:, None]
    if ROUNDS_FIRST:
        x = x.to(loaded.dtype).to(tl.float32)
    weight = tl.load(weights + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(outputs + row * width + column, (x * (weight + OFFSET)).to(loaded.dtype), mask=inside)
