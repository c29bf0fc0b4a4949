"""Where a bench ran."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from steering_core.models import LoadedModel, device_kind, resolve_device
from steersweep.errors import UserError


def bench_device(name: str) -> torch.device:
    """The device of that name, see ``resolve_device``.

    Raises:
        UserError: no such device, or one that the plain loops do not run on.
    """
    if device_kind(name) == "xla":
        raise UserError(
            "bench does not run on XLA, because the plain loops would be compiled again for every "
            "length; choose --device cuda or cpu"
        )
    return resolve_device(name)


@dataclass(frozen=True)
class Machine:
    """Where it ran; ``matmul_flops_per_s`` is the best rate of square products in the dtype."""

    device: str
    device_name: str
    dtype: str
    threads: int
    torch: str
    transformers: str
    attention: str
    float32_matmul_precision: str
    date: str
    matmul_flops_per_s: float


def machine_of(model: LoadedModel, matmul_flops_per_s: float) -> Machine:
    """This machine, as the model uses it."""
    device, config = model.device, model.layout.config
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return Machine(
        device=device.type,
        device_name=name,
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        attention=str(getattr(config, "_attn_implementation", None)),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        matmul_flops_per_s=matmul_flops_per_s,
    )


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
