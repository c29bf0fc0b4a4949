"""A batch's arrays on the device, uploaded once for all passes over it, without waiting for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steering_core.packing import Batch


@dataclass(frozen=True)
class PlacedBatch:
    """A batch with those of its arrays that passes read as tensors, see ``Batch``."""

    host: Batch
    input_ids: Tensor
    position_ids: Tensor
    branch: Tensor
    read_at: Tensor
    token_ids: Tensor
    token_slot: Tensor


def place(batch: Batch, device: torch.device) -> PlacedBatch:
    """The batch on a device."""

    def on_device(values: np.ndarray) -> Tensor:
        return upload(torch.from_numpy(values), device)

    return PlacedBatch(
        host=batch,
        input_ids=on_device(batch.input_ids),
        position_ids=on_device(batch.position_ids),
        branch=on_device(batch.branch),
        read_at=on_device(batch.read_at),
        token_ids=on_device(batch.token_ids),
        token_slot=on_device(batch.token_slot),
    )


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on a device; what the device still computes is not waited for.

    CUDA copies from pageable memory only when all work before it is done.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
