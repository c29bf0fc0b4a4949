"""Waiting for, and memory of, every GPU that a model is spread over."""

from __future__ import annotations

import pytest
import torch

from steering_core.memory_gauges import peak_memory_bytes, reset_peak_memory
from steering_core.timing import devices_in_use, seconds, synchronize

CUDA = torch.device("cuda")


def test_all_gpus_with_memory_of_this_process_count_and_no_other_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reserved = {0: 2**20, 1: 0, 2: 3 * 2**20}
    waited: list[torch.device] = []
    began: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(reserved))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: reserved[index])
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", began.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 10**device.index)
    used = [torch.device("cuda", 0), torch.device("cuda", 2)]
    synchronize(CUDA)
    assert waited == used
    seconds(lambda: None, CUDA)
    assert waited == 3 * used
    reset_peak_memory(CUDA)
    assert began == used
    assert peak_memory_bytes(CUDA) == 101
    assert devices_in_use(torch.device("cuda", 1)) == [torch.device("cuda", 1)]
    assert devices_in_use(torch.device("cpu")) == [torch.device("cpu")]
    reserved.update({0: 0, 2: 0})
    assert devices_in_use(CUDA) == [CUDA]
