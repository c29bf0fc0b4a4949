"""Log-sum-exp of the head's products, with their scale and soft-cap, in one pass over them.

Shapes: M positions that are read, C columns of the vocabulary in one product.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from steering_core.kernels.functions import tanh

_BLOCK, _NUM_WARPS = 2048, 8


def add_log_sum_exp(
    log_norm_M: Tensor, products_MC: Tensor, *, scale: float = 1.0, cap: float | None = None
) -> None:
    """Add a slice of the vocabulary to log-sum-exps over it, in place, in nats.

    ``log_norm = log(exp(log_norm) + sum over columns of exp(x))`` with ``x = scale * product``, or
    ``x = cap * tanh(scale * product / cap)``.

    Args:
        log_norm_M: [M] float32, changed; -inf for an empty sum.
        products_MC: [M, C] in any float dtype, each row contiguous; not changed.
        scale: factor on the products.
        cap: soft-cap on the scaled products; None: no cap.

    A NaN among a row's products makes its log-sum-exp NaN; infinities do what they do in
    ``torch.logsumexp``.
    """
    assert products_MC.stride(1) == 1
    assert log_norm_M.is_contiguous()
    num_rows, num_columns = products_MC.shape
    if num_rows == 0:
        return
    _add_log_sum_exp[(num_rows,)](
        log_norm_M,
        products_MC,
        products_MC.stride(0),
        num_columns,
        float(scale),
        1.0 if cap is None else float(cap),
        HAS_CAP=cap is not None,
        BLOCK=_BLOCK,
        num_warps=_NUM_WARPS,
    )


# Row stride and number of columns are specialized: loads of 16 bytes need to know that they are
# multiples of 16. All slices but the last have one size, so there are two programs at most.
@triton.jit
def _add_log_sum_exp(
    log_norms,
    products,
    row_stride,
    num_columns,
    scale,
    cap,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row; the running sum is kept as total * exp(shift)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    largest = tl.load(log_norms + row)
    shift = _finite_or_zero(largest)
    total = tl.exp(largest - shift)
    for low in range(0, num_columns, BLOCK):
        inside = low + column < num_columns
        x = tl.load(products + row * row_stride + low + column, mask=inside, other=0.0)
        x = x.to(tl.float32) * scale
        if HAS_CAP:
            x = cap * tanh(x / cap)
        x = tl.where(inside, x, float("-inf"))
        largest = tl.maximum(largest, tl.max(x, axis=0))
        new_shift = _finite_or_zero(largest)
        # An empty sum stays empty: 0 * exp(0 - new_shift) could be 0 * inf.
        total = tl.where(total == 0.0, 0.0, total * tl.exp(shift - new_shift))
        total += tl.sum(tl.exp(x - new_shift), axis=0)
        shift = new_shift
    tl.store(log_norms + row, shift + tl.log(total))


@triton.jit
def _finite_or_zero(x):
    """What exponents are shifted by: inf - inf would be NaN."""
    return tl.where(tl.abs(x) == float("inf"), 0.0, x)
