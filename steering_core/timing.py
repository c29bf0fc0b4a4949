"""Wall time of work on a device that runs behind the program, and which rows to time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from steering_core import xla


def devices_in_use(device: torch.device) -> list[torch.device]:
    """The devices that a model on this one may use.

    For CUDA without an index, every GPU on which this process holds memory: a large model is spread
    over several. GPUs that it does not use are not touched, which would take memory of each.
    """
    if device.type != "cuda" or device.index is not None:
        return [device]
    indices = [i for i in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(i)]
    return [torch.device("cuda", index) for index in indices] or [device]


def synchronize(device: torch.device) -> None:
    """Wait for everything that was given to the device, see ``devices_in_use``."""
    if device.type == "cuda":
        for used in devices_in_use(device):
            torch.cuda.synchronize(used)
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


def neighbours(num_all: int, num: int, group: int) -> list[int]:
    """``num`` of 0..num_all-1, ascending: groups of at least ``group`` in a row, evenly spread."""
    num = min(num, num_all)
    group = min(group, num)
    num_groups = max(1, num // group)
    group = -(-num // num_groups)
    num_groups = -(-num // group)
    gap = (num_all - num) / num_groups
    # Before each group goes its share of what is left out, half of it before the first.
    return [int(gap * (index // group + 0.5)) + index for index in range(num)]


def spread(num: int, most: int) -> list[int]:
    """At most ``most`` of 0..num-1, evenly spaced."""
    return sorted({int(i) for i in np.linspace(0, num - 1, min(num, most)).round()})
