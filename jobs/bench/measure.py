"""The rate of large matrix products on a device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch

from steering_core.timing import seconds

_MATMUL_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}


def matmul_flops_per_s(
    device: torch.device,
    dtype: torch.dtype,
    budget_s: float = 2.0,
    sizes: Sequence[int] | None = None,
) -> float:
    """Best rate of square matrix products, 2 n^3 operations each, over sizes that saturate.

    Each size runs at least once, then as long as its share of ``budget_s`` lasts. If one product
    takes longer than all of it (half precision on a CPU without instructions for it), its rate
    stands and no larger one is tried.
    """
    best = 0.0
    sizes = sizes or _MATMUL_SIZES.get(device.type, _MATMUL_SIZES["cpu"])
    for size in sizes:
        left = torch.randn(size, size, device=device, dtype=dtype)
        right, into = torch.randn_like(left), torch.empty_like(left)
        product = partial(torch.mm, left, right, out=into)
        first_s = seconds(product, device)
        if first_s > budget_s:
            return max(best, 2 * size**3 / first_s)
        until = time.monotonic() + budget_s / len(sizes)
        while True:
            best = max(best, 2 * size**3 / seconds(product, device))
            if time.monotonic() > until:
                break
    return best
