"""Wall time of work on a device that runs behind the program."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from steering_core import xla


def synchronize(device: torch.device) -> None:
    """Wait for everything that was given to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    else:
        xla.wait(device)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of the work, from an idle device to an idle device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start
