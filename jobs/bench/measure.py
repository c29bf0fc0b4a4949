"""Gauges of a machine: peak and free memory, and the rate of large matrix products."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from steering_core.timing import devices_in_use, seconds

_MATMUL_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
_SELF = Path("/proc/self")


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak, where the system can (CUDA, Linux)."""
    if device.type == "cuda":
        for used in devices_in_use(device):
            torch.cuda.reset_peak_memory_stats(used)
        return
    try:
        # Linux: 5 sets the high-water mark of resident memory to what is resident now.
        (_SELF / "clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_bytes(device: torch.device) -> int:
    """CUDA: most bytes allocated, of all GPUs that are used; else most resident bytes.

    Resident memory is that of the whole process, weights included.
    """
    if device.type == "cuda":
        return sum(int(torch.cuda.max_memory_allocated(used)) for used in devices_in_use(device))
    try:
        lines = (_SELF / "status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def available_memory_bytes(device: torch.device) -> int:
    """Bytes that can still be had on the device; 4 GiB where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 * 2**30


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
