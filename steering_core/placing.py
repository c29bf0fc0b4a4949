"""Copies between host and device that do not wait for what the device still computes."""

from __future__ import annotations

from collections.abc import Callable
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


def fetch(tensor: Tensor) -> Callable[[], np.ndarray]:
    """A function that returns the tensor's values on the host, waiting until they are there.

    On CUDA the copy into pinned memory starts now, so that the function waits only for work that
    was queued before this call. A plain ``tensor.cpu()`` would start the copy when it is called,
    behind everything that was queued in between: usually a whole batch.

    On the CPU the values are the tensor's own memory. Do not change the tensor in place before the
    function is called.
    """
    if tensor.device.type != "cuda":
        return lambda: tensor.cpu().numpy()
    on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    on_host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    # A model over several GPUs leaves results on another one than the current device.
    copied.record(torch.cuda.current_stream(tensor.device))

    def values() -> np.ndarray:
        copied.synchronize()
        return on_host.numpy()

    return values
