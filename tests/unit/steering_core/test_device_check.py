"""A device that no longer computes is found; one that is only full is not taken for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from steering_core.device_check import check_devices, devices_of

CPU = torch.device("cpu")


def raising(error: Exception) -> Callable[..., Any]:
    def raise_it(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    return raise_it


def test_a_working_device_passes() -> None:
    check_devices([CPU])


def test_the_error_of_a_broken_device_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(torch, "ones", raising(error))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        check_devices([CPU])


def test_an_error_that_comes_up_while_waiting_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("CUDA error: unspecified launch failure")
    monkeypatch.setattr("steering_core.device_check.synchronize", raising(error))
    with pytest.raises(RuntimeError, match="launch failure"):
        check_devices([CPU])


def test_a_full_device_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "ones", raising(torch.OutOfMemoryError("CUDA out of memory")))
    check_devices([CPU])


def test_a_device_that_computes_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "ones", lambda num, device: torch.zeros(num, device=device))
    with pytest.raises(RuntimeError, match="cpu adds 16 ones to 0"):
        check_devices([CPU])


def test_the_devices_of_a_model_are_those_of_its_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    assert devices_of(model) == [CPU]
