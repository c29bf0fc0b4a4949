"""Whether an error says that memory ran out: devices say so in different ways."""

from __future__ import annotations

import torch

_SAID = (
    "out of memory",  # CUDA, MPS; XLA where it runs
    "ran out of memory",  # XLA's compiler
    "resource_exhausted",  # XLA, but for the versions that leave out the status
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",  # cublasCreate on a GPU that is full
    "cudnn_status_alloc_failed",  # up to cuDNN 8
    "_allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "can't allocate memory",  # the CPU's allocator
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or what caused it, is that a device or the host is out of memory.

    A smaller batch may then fit. Try it behind the ``except``, not inside: the error's traceback
    holds on to the tensors of what failed.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = " ".join(map(str, error.args)).lower()
    if isinstance(error, RuntimeError) and any(said in text for said in _SAID):
        return True
    cause = error.__cause__
    return cause is not None and is_out_of_memory(cause)
