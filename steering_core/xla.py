"""What is asked of torch_xla, which is imported where an XLA device is used and nowhere else.

XLA devices record operations and run them when asked (``launch``), after compiling what was
recorded, unless the very same was compiled before.
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from typing import Any

import torch

from steersweep.errors import UserError


def is_xla(device: torch.device) -> bool:
    """Whether operations on a device are recorded and compiled."""
    return device.type == "xla"


def is_installed() -> bool:
    """Whether torch_xla is there; it may still not fit the torch that is there."""
    return importlib.util.find_spec("torch_xla") is not None


def has_accelerator() -> bool:
    """Whether torch_xla has more than the host's CPU to run on.

    Takes hold of no device: a TPU belongs to one process, which is a replica and not its driver.
    """
    if not is_installed():
        return False
    try:
        from torch_xla import runtime
    except (ImportError, OSError):
        return False
    return (runtime.device_type() or "CPU") != "CPU"


def device() -> torch.device:
    """The XLA device of this process, held from now on.

    Raises:
        UserError: torch_xla cannot be imported, or finds no device.
    """
    torch_xla = _imported()
    try:
        found: torch.device = torch_xla.device()
    except RuntimeError as error:
        raise UserError(
            f"torch_xla finds no device: {_first_line(error)}; set PJRT_DEVICE, and see that no "
            "other process holds the TPU"
        ) from error
    return found


def multiply_in_float32() -> None:
    """Have float32 matrices multiplied in float32; a TPU rounds them to bfloat16 otherwise."""
    from torch_xla import backends

    if backends.get_mat_mul_precision() != "highest":
        backends.set_mat_mul_precision("highest")


def forward_only(device: torch.device) -> AbstractContextManager[Any]:
    """While open, nothing is kept for gradients; XLA's tensors cannot be inference tensors."""
    return torch.no_grad() if is_xla(device) else torch.inference_mode()


def launch(device: torch.device) -> None:
    """Have the device run what was recorded; nothing is waited for. Others run at once."""
    if is_xla(device):
        _imported().sync()


def wait(device: torch.device) -> None:
    """Wait for everything that an XLA device was given."""
    if is_xla(device):
        from torch_xla.core import xla_model

        launch(device)
        xla_model.wait_device_ops()


def num_compilations() -> int:
    """Programs that this process has compiled since it began."""
    from torch_xla.debug import metrics

    return int(metrics.counter_value("UncachedCompile") or 0)


def _imported() -> Any:
    try:
        import torch_xla
    except (ImportError, OSError) as error:
        if not is_installed():
            hint = "TPUs are reached through torch_xla, not torch_tpu: install it"
        else:
            hint = "install the torch_xla that was made for it"
        raise UserError(
            f"torch_xla cannot be imported with torch {torch.__version__} "
            f"({_first_line(error)}); {hint}, as docs/xla.md says"
        ) from error
    return torch_xla


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
