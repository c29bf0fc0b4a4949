"""Whether a device still computes: some errors break it for the rest of the process."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from steering_core.out_of_memory import is_out_of_memory
from steering_core.timing import synchronize

_NUM_ONES = 16


def devices_of(module: nn.Module) -> list[torch.device]:
    """The devices that hold a model's weights, sorted by name."""
    found = {weight.device for weight in module.parameters()} - {torch.device("meta")}
    return sorted(found, key=str)


def check_devices(devices: Iterable[torch.device]) -> None:
    """Wait for each device, compute a small sum on it, and read the result.

    After an illegal address, a memory fault (ECC) or a failed launch, every CUDA call of the
    process fails. Running out of memory is no such error.

    Raises:
        RuntimeError: a device does not compute; torch's own error where it raises one.
    """
    for device in devices:
        try:
            synchronize(device)
            total = torch.ones(_NUM_ONES, device=device).sum().item()
        except Exception as error:  # a broken device may raise anything
            if is_out_of_memory(error):
                continue
            raise
        if total != _NUM_ONES:
            raise RuntimeError(f"{device} adds {_NUM_ONES} ones to {total}")
