"""Section ``environment``: what the machine is, how PyTorch is set, and the rates it reaches."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

from jobs.bench.gpu.gauges import best_s
from jobs.bench.gpu.page import Table, number
from jobs.bench.gpu.record import SectionRecord
from jobs.bench.gpu.steps import Found, Setting, Step
from jobs.bench.machine import cpu_name
from jobs.bench.measure import matmul_flops_per_s
from jobs.bench.shapes import build_shape
from steering_core.device_settings import device_settings
from steering_core.memory_gauges import available_memory_bytes
from steering_core.timing import synchronize

_PACKAGES = ("torch", "transformers", "triton", "numpy", "safetensors", "tokenizers")
_NAMED = ("CUBLAS", "CUDA", "CUDNN", "NVIDIA_TF32", "OMP", "PYTORCH", "TORCH", "TRITON")
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_LAUNCHES = 1000


def steps(setting: Setting) -> list[Step]:
    """The section's steps."""
    rates = [
        Step(f"matrix rate, {name}", lambda dtype=dtype: _matrix_rate(setting, dtype))  # type: ignore[misc]
        for name, dtype in _DTYPES.items()
    ]
    return [
        Step("machine", lambda: _machine(setting)),
        Step("settings", lambda: _settings(setting)),
        *rates,
        Step("copies", lambda: _copies(setting)),
        Step("launches", lambda: _launches(setting)),
    ]


def _machine(setting: Setting) -> Found:
    values: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: _version_of(name) for name in _PACKAGES},
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "free_memory_bytes": available_memory_bytes(setting.device),
    }
    if setting.device.type == "cuda":
        properties = torch.cuda.get_device_properties(setting.device)
        values |= {
            "device": properties.name,
            "devices": torch.cuda.device_count(),
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            **_driver(),
        }
    name = values.get("device", values["processor"])
    return Found(f"{name}, torch {values['torch']}", values)


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> dict[str, Any]:
    """What nvidia-smi says, which only reads."""
    names = ("driver_version", "clocks.max.sm", "clocks.sm", "power.limit", "temperature.gpu")
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"nvidia-smi": "not found"}
    done = subprocess.run(  # noqa: S603 - a fixed command
        [program, f"--query-gpu={','.join(names)}", "--format=csv,noheader"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        return {"nvidia-smi": done.stderr.strip()[:200] or f"exit code {done.returncode}"}
    answers = done.stdout.strip().splitlines()[0].split(", ")
    return dict(zip(names, answers, strict=False))


def _settings(setting: Setting) -> Found:
    """As a model leaves them that was loaded as the other sections load theirs."""
    build_shape("tiny", setting.device, torch.bfloat16)
    backends, cuda = torch.backends, torch.backends.cuda
    readers: dict[str, Callable[[], object]] = {
        "float32 products": torch.get_float32_matmul_precision,
        "TF32 in products": lambda: cuda.matmul.allow_tf32,
        "TF32 in cuDNN": lambda: backends.cudnn.allow_tf32,
        "bfloat16 sums in reduced precision": lambda: (
            cuda.matmul.allow_bf16_reduced_precision_reduction
        ),
        "float16 sums in reduced precision": lambda: (
            cuda.matmul.allow_fp16_reduced_precision_reduction
        ),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
        "cuDNN deterministic": lambda: backends.cudnn.deterministic,
        "cuDNN benchmark": lambda: backends.cudnn.benchmark,
        "attention: order": _attention_order,
        "attention: cuDNN": cuda.cudnn_sdp_enabled,
        "attention: flash": cuda.flash_sdp_enabled,
        "attention: memory-efficient": cuda.mem_efficient_sdp_enabled,
        "attention: math": cuda.math_sdp_enabled,
    }
    values = {name: _read(reader) for name, reader in readers.items()}
    values |= {f"pinned: {name}": value for name, value in device_settings(setting.device).items()}
    values |= {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_NAMED) and "PATH" not in name
    }
    return Found(f"TF32 in products: {values['TF32 in products']}", values)


def _read(reader: Callable[[], object]) -> object:
    try:
        value = reader()
    except Exception as error:  # one setting that this version does not have
        return f"{type(error).__name__}: {error}"[:100]
    return value if isinstance(value, bool | int | str) else str(value)


def _attention_order() -> str:
    from torch.nn.attention import SDPBackend

    order = torch._C._get_sdp_priority_order()
    names = {int(backend.value): name for name, backend in SDPBackend.__members__.items()}
    return ", ".join(names.get(int(value), str(value)).lower() for value in order)


def _matrix_rate(setting: Setting, dtype: torch.dtype) -> Found:
    sizes = setting.sizes
    rate = matmul_flops_per_s(setting.device, dtype, max(0.1, sizes.repeat_s), sizes.matmul_sizes)
    return Found(f"{rate / 1e12:.4g} TFLOP/s on random data", {"flops_per_s": rate})


def _copies(setting: Setting) -> Found:
    device, num = setting.device, setting.sizes.copy_bytes
    values: dict[str, float] = {"bytes": num}
    source = torch.randint(0, 255, (num,), dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    repeat_s = setting.sizes.repeat_s / 4
    # Bytes read and bytes written.
    values["on_device_bytes_per_s"] = 2 * num / best_s(lambda: into.copy_(source), device, repeat_s)
    host = torch.zeros(num // 8, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = into[: len(host)]
    ways = {
        "to_device": lambda: there.copy_(host, non_blocking=True),
        "from_device": lambda: host.copy_(there, non_blocking=True),
    }
    for way, copy in ways.items():
        values[f"{way}_bytes_per_s"] = len(host) / best_s(copy, device, repeat_s)
    return Found(f"{values['on_device_bytes_per_s'] / 1e9:.4g} GB/s on the device", values)


def _launches(setting: Setting) -> Found:
    """What one small operation costs the host, and a round trip to the device and back."""
    device = setting.device
    one = torch.ones(8, device=device)

    def launch() -> None:
        for _ in range(_LAUNCHES):
            one.add_(1)

    launch()
    synchronize(device)
    start = time.perf_counter()
    launch()
    host_s = time.perf_counter() - start
    launch_s = host_s / _LAUNCHES
    trip_s = best_s(lambda: one.add_(1).cpu(), device, 0.0, 20)
    values = {"launch_s": launch_s, "round_trip_s": trip_s}
    return Found(f"{1e6 * launch_s:.3g} us a launch, {1e6 * trip_s:.3g} us a round trip", values)


def tables(section: SectionRecord) -> list[Table]:
    """The section's tables."""
    made = []
    for name in ("machine", "settings"):
        step = section.step(name)
        if step is not None and step.found:
            rows = [[_title(key), _shown(key, value)] for key, value in step.found.items()]
            made.append(Table(name.capitalize(), ("", ""), rows))
    rates: list[list[str]] = []
    for dtype in _DTYPES:
        step = section.step(f"matrix rate, {dtype}")
        if step is not None and step.found:
            rate = step.found["flops_per_s"] / 1e12
            rates.append([f"matrix products, {dtype}", f"{number(rate)} TFLOP/s"])
    copies, launches = section.step("copies"), section.step("launches")
    if copies is not None and copies.found:
        names = {
            "on_device": "copy on the device, bytes read and written",
            "to_device": "copy from pinned host memory to the device",
            "from_device": "copy from the device to pinned host memory",
        }
        for key, name in names.items():
            rates.append([name, f"{number(copies.found[f'{key}_bytes_per_s'] / 1e9)} GB/s"])
    if launches is not None and launches.found:
        rates.append(["one launch, on the host", f"{number(1e6 * launches.found['launch_s'])} us"])
        rates.append(["round trip", f"{number(1e6 * launches.found['round_trip_s'])} us"])
    if rates:
        made.append(Table("Rates", ("", "best of several"), rates))
    return made


def _title(key: str) -> str:
    """The name of a value; those of variables of the environment stay as they are."""
    return key if key.isupper() else key.removesuffix("_bytes").replace("_", " ")


def _shown(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not installed" if value is None else str(value)
