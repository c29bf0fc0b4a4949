"""What is read off the device: rates, time it works, memory it may take, batches that enter.

Shapes: none; sizes are in bytes and times in seconds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from steering_core.timing import seconds, synchronize

_Device = torch.autograd.DeviceType  # type: ignore[attr-defined]


def best_s(
    work: Callable[[], object], device: torch.device, least_s: float, fewest: int = 3
) -> float:
    """Least wall time of a run of the work, over ``fewest`` runs and ``least_s`` of them, warm."""
    work()
    took: list[float] = []
    while len(took) < fewest or sum(took) < least_s:
        took.append(seconds(work, device))
    return min(took)


@contextmanager
def entering(decoder: nn.Module) -> Iterator[list[int]]:
    """While open, the positions of each batch that enters the decoder, padding included."""
    sizes: list[int] = []

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        sizes.append(int(kwargs["input_ids"].numel()))

    handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


@contextmanager
def limited_memory(device: torch.device, room_bytes: int) -> Iterator[None]:
    """While open, this process can take so many bytes more; then an allocation really fails.

    On CUDA by the allocator's limit, on the CPU by the process's address space (Linux).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        held = torch.cuda.memory_reserved(device)
        # Of the current device: torch refuses one without a number here.
        torch.cuda.set_per_process_memory_fraction(min(1.0, (held + room_bytes) / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
        return
    import resource

    page = resource.getpagesize()
    held = page * int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + room_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def held_bytes(device: torch.device) -> int:
    """CUDA: bytes of living tensors; else 0."""
    return int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else 0


@dataclass(frozen=True)
class Busy:
    """What a device did during some work.

    Attributes:
        busy_s: time in which it computed; what runs at the same time counts once.
        span_s: from the start of the first operation to the end of the last.
        num_operations: kernels and copies; on the CPU, PyTorch operations.
    """

    busy_s: float
    span_s: float
    num_operations: int

    @property
    def idle_share(self) -> float:
        """Share of the span in which it did nothing."""
        return 1 - self.busy_s / self.span_s if self.span_s > 0 else 0.0


def profiled(
    work: Callable[[], object], device: torch.device, *, with_host: bool = True
) -> Sequence[Any]:
    """Run the work under torch's profiler; its events.

    Args:
        with_host: whether operations of the host are seen too; without them the profiler costs
            less. On the CPU they always are.
    """
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if is_cuda else []
    if with_host or not is_cuda:
        activities.append(ProfilerActivity.CPU)
    synchronize(device)
    with profile(activities=activities) as seen:
        work()
        synchronize(device)
    events: Sequence[Any] = seen.events()
    return events


def is_on_device(event: Any) -> bool:
    """Whether an event of the profiler is a kernel or a copy, and not the host's name for some."""
    is_annotation = bool(getattr(event, "is_user_annotation", False))
    return event.device_type == _Device.CUDA and not is_annotation


def is_on_host(event: Any) -> bool:
    """Whether an event of the profiler is an operation or a range of the host."""
    return bool(event.device_type == _Device.CPU)


def busy_of(events: Sequence[Any], device: torch.device) -> Busy:
    """How long the device worked, from the events of ``profiled``.

    On the CPU PyTorch's operations count as the device's work, and Python between them as the gaps.
    """
    if device.type == "cuda":
        times = [event.time_range for event in events if is_on_device(event)]
    else:
        times = [event.time_range for event in events if event.name.startswith("aten::")]
    spans = sorted((time.start, time.end) for time in times)
    busy, reached = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    span = reached - spans[0][0] if spans else 0.0
    return Busy(busy / 1e6, span / 1e6, len(spans))
