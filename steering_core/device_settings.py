"""Torch's settings for CUDA that decide numbers or speed, the same in every process.

Replicas must compute the same bits, on the same kind of GPU. For that this project relies on:

- one stream, the default one: cuBLAS gives the same bits for the same shapes then;
- kernels without atomics on floats in everything that is scored or generated;
- the settings below, and none that is chosen by a clock (``cudnn.benchmark``).

``torch.use_deterministic_algorithms`` is left alone. It would refuse or slow down operations that
are deterministic as they are used here (``index_put_`` and ``scatter_`` with distinct indices or
equal values, ``cumsum``), and would fill every new tensor with NaN first.
"""

from __future__ import annotations

import os
from typing import Any

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def pin_device_settings(device: torch.device) -> None:
    """Set, for the whole process, what is listed here; does nothing for other devices than CUDA.

    To be called before the model is put on the device: cuBLAS reads its variable once.

    - *TF32 off, in products and cuDNN.* It keeps 10 bits of a float32 product's mantissa: scores
      miss 1e-4, and where rotary angles are a product, positions are wrong in bfloat16 models too.
      NVIDIA's images turn it on by ``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE``, which only sets torch's
      initial value: what is set here wins.
    - *Sums of half-precision products in float32*, also where cuBLAS splits them.
    - *No cuDNN attention.* It builds a plan for every new shape (others report 55 to 440 ms), and
      nearly every batch has another shape.
    - *cuBLAS's workspace of one size.* Its size takes part in the choice of kernels, hence in the
      last bits. The value is torch's own for Hopper, and the one that keeps bits with several
      streams. A value that is set already stays, and is stated by ``device_settings``.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    products = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn  # its newest names have no types
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    # The same again by the names that replace those: where a program set one of these, the old
    # names neither change it nor can be read.
    products.fp32_precision = cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    products.allow_bf16_reduced_precision_reduction = False
    products.allow_fp16_reduced_precision_reduction = False
    products.allow_fp16_accumulation = False
    cudnn.benchmark = False
    cudnn.deterministic = True
    torch.backends.cuda.enable_cudnn_sdp(False)


def device_settings(device: torch.device) -> dict[str, str]:
    """The settings as they are now, read from torch; empty for other devices than CUDA."""
    if device.type != "cuda":
        return {}
    products, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    attention: Any = torch.backends.cuda
    reductions = (
        products.allow_bf16_reduced_precision_reduction,
        products.allow_fp16_reduced_precision_reduction,
        products.allow_fp16_accumulation,
    )
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "tf32": _on_or_off(products.allow_tf32 or cudnn.allow_tf32),
        "half_precision_sums": _on_or_off(any(reductions)),
        "cudnn_attention": _on_or_off(attention.cudnn_sdp_enabled()),
        "cudnn_benchmark": _on_or_off(cudnn.benchmark),
        "cublas_workspace": os.environ.get(_WORKSPACE, "default"),
    }


def _on_or_off(is_on: bool) -> str:
    return "on" if is_on else "off"
