"""What this machine has for a plan: room for replicas, and weights that can be loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cluster.placement import Node, Share, num_fitting
from jobs.cores import num_cores
from jobs.spec import ComputeSpec
from jobs.sweeps.executor import gpus_of
from jobs.words import count
from steering_core.memory import weights_bytes
from steering_core.memory_gauges import available_memory_bytes
from steering_core.models import ModelSource
from steering_core.skeleton import Skeleton
from steersweep.errors import UserError

_HEADROOM = 1.25
"""Memory that a load takes beside the weights."""


def why_not_here(source: ModelSource, dtype: str, skeleton: Skeleton, device: str) -> str | None:
    """Why a model cannot be measured on this machine, in words; None where it can."""
    if not _is_here(source):
        return "its weights are not on this machine"
    needed = int(_HEADROOM * weights_bytes(skeleton, dtype))
    free = available_memory_bytes(torch.device(device))
    if needed > free:
        return f"it needs {needed / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB are free"
    return None


def check_gpus_are_here(compute: ComputeSpec) -> None:
    """Raise UserError if replicas ask for more GPUs than this machine has.

    A run on this machine would be refused, too. In this process replicas ask for none, and a run
    that waits for nodes may get them.
    """
    wanted, wait_s = compute.gpus_per_replica, compute.wait_for_nodes_s
    is_waiting = wait_s != "auto" and wait_s > 0
    if wanted == "auto" or compute.executor == "in_process" or is_waiting:
        return
    num_here = torch.cuda.device_count()
    if wanted > num_here:
        raise UserError(
            f"compute.gpus_per_replica is {wanted:g}, and this machine has {count(num_here, 'GPU')}"
            "; name the hardware of the run with --device, such as --device a100, or lower "
            "compute.gpus_per_replica"
        )


@contextmanager
def torch_threads(num: int) -> Iterator[None]:
    """Let torch use as many threads as a replica of the run would, and put its number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def num_replicas(compute: ComputeSpec, device: str, *, is_here: bool) -> int:
    """How many replicas a run would have room for, told without Ray."""
    if compute.executor == "in_process":
        return 1
    if compute.replicas != "auto" or not is_here:
        return 1 if compute.replicas == "auto" else compute.replicas
    here = Node({"CPU": num_cores(), "GPU": torch.cuda.device_count()})
    return num_fitting(here, Share(compute.num_threads, gpus_of(compute, device)))


def _is_here(source: ModelSource) -> bool:
    """Whether a model's weights can be loaded without a download."""
    if source.is_local or source.gguf_file is not None:  # dequantized when its facts were read
        return True
    index = _cached(source, "model.safetensors.index.json")
    if index is None:
        return _cached(source, "model.safetensors") is not None
    files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all(_cached(source, file) is not None for file in files)


def _cached(source: ModelSource, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.path, name, revision=source.revision)
    return Path(found) if isinstance(found, str) else None
