"""Triton kernels in the sections: which can be used, and how they compare with torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jobs.bench.gpu.page import Table, number
from jobs.bench.gpu.steps import LeftOutError
from steering_core.kernels.applied import why_not
from steering_core.kernels.choice import KernelCheck, check_kernels
from steering_core.models import LoadedModel


def checks_of_kernels(
    model: LoadedModel, num_positions: int, *, timed: bool = False
) -> dict[str, KernelCheck]:
    """Each kernel that the model has a place for, against torch.

    Raises:
        LeftOutError: no kernel can run here.
    """
    if (reason := why_not(model)) is not None:
        raise LeftOutError(reason)
    return check_kernels(model, num_positions=num_positions, timed=timed)


def usable(checks: Mapping[str, KernelCheck]) -> tuple[str, ...]:
    """The kernels that compute what torch computes."""
    return tuple(name for name, check in checks.items() if check.is_right)


def gap_of(check: KernelCheck) -> float:
    """The largest relative gap; infinite if the kernel did not run."""
    return math.inf if check.gap is None else check.gap


def kernels_table(kernels: Mapping[str, Mapping[str, Any]]) -> Table:
    """Kernels one by one, as ``asdict`` leaves them."""
    lines = [
        [
            name,
            number(check["gap"], 2) if check["gap"] is not None else f"no: {check['reason']}",
            number(check["limit"], 2),
            _us(check["torch_s"]),
            _us(check["kernel_s"]),
        ]
        for name, check in kernels.items()
    ]
    header = ("", "relative gap", "limit", "torch, us", "kernel, us")
    return Table("Kernels against torch, one call", header, lines)


def _us(seconds: float | None) -> str:
    return "" if seconds is None else number(1e6 * seconds)
