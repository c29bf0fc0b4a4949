"""Peak and free memory of a device, as it reports them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from steering_core.timing import devices_in_use

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
