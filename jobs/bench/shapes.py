"""Models with the shape of known ones and random weights, made where they will run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from steering_core.device_settings import pin_device_settings
from steering_core.layout import find_layout
from steering_core.models import LoadedModel
from steersweep.errors import UserError


def _sizes(
    blocks: int, width: int, inner: int, heads: tuple[int, int, int], vocab: int
) -> dict[str, Any]:
    """Config keys; ``heads``: query heads, key and value heads, width of a head."""
    return {
        "num_hidden_layers": blocks,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": heads[2],
        "vocab_size": vocab,
    }


def _gemma2(
    blocks: int, width: int, inner: int, heads: tuple[int, int, int], vocab: int
) -> dict[str, Any]:
    """As ``_sizes``, with both soft-caps and a sliding window in every second block."""
    return _sizes(blocks, width, inner, heads, vocab) | {
        "query_pre_attn_scalar": heads[2],
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    }


SHAPES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gemma2-2b": ("gemma2", _gemma2(26, 2304, 9216, (8, 4, 256), 256_000)),
    "gemma2-mid": ("gemma2", _gemma2(18, 512, 2048, (8, 4, 64), 32_768)),
    "llama-1b": ("llama", _sizes(16, 2048, 8192, (32, 8, 64), 128_256)),
    "qwen2-small": ("qwen2", _sizes(12, 256, 1024, (4, 2, 64), 32_768)),
    "qwen2-0.5b": ("qwen2", _sizes(24, 896, 4864, (14, 2, 64), 151_936)),
    "qwen2.5-1.5b": (
        "qwen2",
        _sizes(28, 1536, 8960, (12, 2, 128), 151_936) | {"tie_word_embeddings": True},
    ),
    "qwen2.5-7b": ("qwen2", _sizes(28, 3584, 18_944, (28, 4, 128), 152_064)),
    "tiny": ("gemma2", _gemma2(4, 64, 128, (4, 2, 16), 2048)),
}
"""By name: the family in transformers, and what its config is given."""


def build_shape(
    name: str, device: torch.device, dtype: torch.dtype, *, seed: int = 0, **changed: Any
) -> LoadedModel:
    """A random-weight model of a shape, in evaluation mode on the device; see ``random_model``.

    Args:
        changed: config keys that replace the shape's.

    Raises:
        UserError: no shape has that name; the message lists those there are.
    """
    if name not in SHAPES:
        raise UserError(f"unknown shape {name!r}; choose one of {', '.join(SHAPES)}")
    family, options = SHAPES[name]
    return random_model(name, family, options | changed, device, dtype, seed=seed)


def random_model(
    name: str,
    family: str,
    options: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    *,
    seed: int = 0,
) -> LoadedModel:
    """A random-weight model of a family in transformers, in evaluation mode on the device.

    Weights are normal with standard deviation ``width ** -0.5``, drawn on the device itself in the
    dtype, so that streams and logits have about unit scale. Sets torch's random seed and, on CUDA,
    what ``load_model`` sets.

    Args:
        options: config keys.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    pin_device_settings(device)
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    config = AutoConfig.for_model(family, **{**special, **options})
    # SDPA would ignore the cap on attention logits.
    caps_attention = getattr(config, "attn_logit_softcapping", None) is not None
    # The library's own initialisation draws every weight twice: minutes for 2 B parameters on a CPU
    with torch.device(device), no_init_weights():
        module: nn.Module = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="eager" if caps_attention else None
        )
    module.tie_weights()  # type: ignore[operator]
    torch.manual_seed(seed)
    with torch.no_grad():
        for path, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=config.hidden_size**-0.5)
            elif path.endswith("bias"):
                parameter.zero_()
    module.eval().requires_grad_(False)
    return LoadedModel(module, find_layout(module, name), device, dtype, name)
