"""A clock for the choice of kernels: interpreted, all of them are slower than torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steering_core.kernels import choice

_KERNEL_FUNCTIONS = ("attend_in_kernel", "gated_product", "kernel", "rms_norm")


def clock(monkeypatch: pytest.MonkeyPatch, slow: str = "") -> None:
    """Every kernel takes 1 s and torch 2 s, but for one kernel that takes 3 s."""

    def best_s(work: Any, _device: torch.device) -> float:
        of_partial = getattr(work, "func", work)
        function = work.args[0] if of_partial is choice._attended else of_partial
        name = function.__name__
        return 3.0 if name == slow else 1.0 if name in _KERNEL_FUNCTIONS else 2.0

    monkeypatch.setattr(choice, "_best_s", best_s)
