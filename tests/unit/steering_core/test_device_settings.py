"""Torch's settings on CUDA: pinned when a model is loaded or made, whatever was set before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jobs.bench import shapes
from steering_core import models
from steering_core.device_settings import device_settings, pin_device_settings
from steering_core.models import ModelSource, load_model
from tests.support.golden import model_path

PINNED = {
    "float32_matmul_precision": "highest",
    "tf32": "off",
    "half_precision_sums": "off",
    "cudnn_attention": "off",
    "cudnn_benchmark": "off",
    "cublas_workspace": ":4096:8",
}
LOOSE = {
    "float32_matmul_precision": "high",
    "tf32": "on",
    "half_precision_sums": "on",
    "cudnn_attention": "on",
    "cudnn_benchmark": "on",
    "cublas_workspace": "default",
}
PROGRAM = """
import json, sys
import torch
from steering_core.device_settings import device_settings, pin_device_settings

cuda = torch.device("cuda")
torch.backends.cudnn.benchmark = True
if sys.argv[1] == "new names":
    torch.backends.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    before = None
else:
    before = device_settings(cuda)
pin_device_settings(cuda)
print(json.dumps([before, device_settings(cuda)]))
"""


@pytest.mark.parametrize("how", ["NVIDIA's image", "new names"])
def test_tf32_is_off_however_it_was_turned_on(how: str) -> None:
    """In a process of its own: some of it is read when torch is imported."""
    variables = {**os.environ, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    variables.pop("CUBLAS_WORKSPACE_CONFIG", None)
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=variables,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = json.loads(told.stdout)
    assert before == (LOOSE if how == "NVIDIA's image" else None)
    assert after == PINNED


def test_a_workspace_that_was_chosen_is_kept_and_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert device_settings(torch.device("cuda"))["cublas_workspace"] == ":16:8"


def test_other_devices_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    pin_device_settings(torch.device("cpu"))
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert device_settings(torch.device("cpu")) == {}


def test_every_way_to_a_model_pins_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.device] = []
    monkeypatch.setattr(models, "pin_device_settings", pinned.append)
    monkeypatch.setattr(shapes, "pin_device_settings", pinned.append)
    load_model(ModelSource(str(model_path("gemma2-tiny"))), device="cpu")
    shapes.build_shape("tiny", torch.device("cpu"), torch.float32)
    assert pinned == [torch.device("cpu")] * 2
