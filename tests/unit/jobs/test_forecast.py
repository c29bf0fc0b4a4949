"""Parts of a forecast that need no model: stated devices, and time on several replicas."""

from __future__ import annotations

import pytest

from jobs.scoring.forecast import devices
from jobs.scoring.forecast.devices import DEVICES, device_of
from jobs.sweeps.wall_time import busy_seconds, startup_seconds
from steersweep.errors import UserError


def test_the_table_in_the_docstring_is_what_is_computed_with() -> None:
    lines = [line.split() for line in (devices.__doc__ or "").splitlines()]
    rows = {line[0]: line[1:6] for line in lines if line and line[0] in DEVICES}
    assert list(rows) == list(DEVICES)
    for name, device in DEVICES.items():
        *rates, bandwidth, memory = rows[name]
        dtypes = ("bfloat16", "float16", "float32")
        stated = {d: float(r) * 1e12 for d, r in zip(dtypes, rates, strict=True) if r != "-"}
        assert device.flops_per_s == pytest.approx(stated)
        assert device.bytes_per_s == pytest.approx(float(bandwidth) * 1e12)
        assert device.memory_bytes == float(memory) * 1e9


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("rtx-4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("rtx5090", "rtx-5090"),
        ("A6000", "rtx-a6000"),
        ("A100", "a100"),
        ("B200", "b200"),
        ("mi300x", "mi300x"),
    ],
)
def test_a_device_is_found_however_it_is_spelled(spelled: str, name: str) -> None:
    assert device_of(spelled).name == name


@pytest.mark.parametrize("name", ["", "rtx", "h999", "9"])
def test_an_unknown_device_is_refused_with_the_names(name: str) -> None:
    with pytest.raises(UserError, match=r"must be one of v100, t4, rtx-3090, .*tpu-v6e, got"):
        device_of(name)


def test_tasks_are_shared_out_and_a_phase_waits_for_the_one_before() -> None:
    assert busy_seconds([[1.0] * 8, [3.0] * 8], 1) == 32
    assert busy_seconds([[1.0] * 8, [3.0] * 8], 8) == 4
    assert busy_seconds([[1.0] * 9], 8) == 2, "the ninth task waits"
    assert busy_seconds([[1.0] * 4, [5.0]], 100) == 6
    assert busy_seconds([[4.0, 3.0, 3.0, 2.0]], 2) == 6
    assert busy_seconds([[], []], 3) == 0


def test_start_up_is_paid_once_by_each_replica_and_again_for_each_model_it_changes_to() -> None:
    assert startup_seconds([], 4, on_ray=True) == 0
    assert startup_seconds([2 * 10**9], 4, on_ray=True) == 10 + 15 + 2
    assert startup_seconds([2 * 10**9, 5 * 10**9], 1, on_ray=True) == 10 + 2 * 15 + 7
    assert startup_seconds([2 * 10**9, 5 * 10**9], 8, on_ray=True) == 10 + 15 + 5
    assert startup_seconds([2 * 10**9], 1, on_ray=False) == 2
