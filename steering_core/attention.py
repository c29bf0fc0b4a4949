"""Attention for packed rows of models that cap attention logits, where SDPA would ignore the cap.

transformers computes a cap eagerly: a copy of keys and values for each query head, then seven
arrays [R, H, S, S] one after another. Here keys and values are read where they lie, the scores of a
few rows at a time are changed in place, and scale and cap are folded into the query.

Shapes: R sequences, S positions, C columns of a cache, H query heads, K key and value heads, G
query heads of a key head, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steering_core.layout import ModelLayout

_NAME = "steersweep_capped"
_PACKED = "steersweep_packed"
FUSED = "steersweep_fused"
"""The attention kernel's name (``kernels.attention``); while it is on, it computes the cap."""
_SCORES_AT_ONCE = {"cpu": 2**18}
_SCORES_ON_ACCELERATOR = 2**27
"""Scores held at once: what a core's cache holds on a CPU, 512 MiB in float32 elsewhere."""


@contextmanager
def capped_attention(layout: ModelLayout) -> Iterator[None]:
    """While open, the blocks of a model that caps attention logits compute it as described above.

    Does nothing for a model without a cap, or under the attention kernel. The mask that a block is
    called with must be additive [R or 1, 1, S, S]; masks that the model makes itself are for its
    own attention.
    """
    config = layout.config
    is_fused = config._attn_implementation == FUSED
    if is_fused or getattr(config, "attn_logit_softcapping", None) is None:
        yield
        return
    with _attention_by(config, _NAME, attend):
        yield


@contextmanager
def step_attention(layout: ModelLayout, device: torch.device) -> Iterator[None]:
    """While open, blocks that are called with one position a sequence compute it without copies.

    A model that caps attention logits goes by ``capped_attention``. Of the others, those that
    compute attention by ``sdpa`` on an accelerator read their key heads as they are: before 5.23,
    transformers copies the keys and values of all columns for each query head, in each block and
    step. On the CPU nothing changes, so that the last bits do not.
    """
    config = layout.config
    if getattr(config, "attn_logit_softcapping", None) is not None:
        with capped_attention(layout):
            yield
    elif device.type == "cpu" or config._attn_implementation != "sdpa":
        yield
    else:
        with _attention_by(config, _PACKED, attend_packed):
            yield


@contextmanager
def _attention_by(config: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """While open, blocks with this config compute attention by a function of that name."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def attend_packed(
    module: nn.Module,
    query_RHSW: Tensor,
    key_RKCW: Tensor,
    value_RKCW: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention [R, S, H, W] as transformers' ``sdpa``; keys and values of C columns.

    Of one position a sequence (S = 1), the query heads that share a key head are that head's
    queries: the mask [R or 1, 1, 1, C] is the same for all of them.
    """
    num_rows, num_heads, num_queries, width = query_RHSW.shape
    num_kv = key_RKCW.shape[1]
    is_shared = attention_mask is None or attention_mask.shape[1] == 1
    can_pack = num_queries == 1 and num_heads > num_kv and is_shared
    if not can_pack or options.get("position_bias") is not None or options.get("dropout"):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query_RHSW, key_RKCW, value_RKCW, attention_mask, scaling=scaling, **options
        )
        return found
    attended_RKGW = torch.nn.functional.scaled_dot_product_attention(
        query_RHSW.reshape(num_rows, num_kv, num_heads // num_kv, width),
        key_RKCW,
        value_RKCW,
        attn_mask=attention_mask,
        scale=scaling,
    )
    return attended_RKGW.reshape(num_rows, 1, num_heads, value_RKCW.shape[3]), None


def rows_at_once(scores_per_row: int, device_type: str) -> int:
    """Rows whose scores are held at a time on a kind of device."""
    return max(1, _SCORES_AT_ONCE.get(device_type, _SCORES_ON_ACCELERATOR) // scores_per_row)


def attend(
    _module: nn.Module,
    query_RHSW: Tensor,
    key_RKSW: Tensor,
    value_RKSW: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **_options: Any,
) -> tuple[Tensor, None]:
    """Attention [R, S, H, W] as transformers' interface wants it; weights are not handed out."""
    num_rows, num_heads, num_queries, width = query_RHSW.shape
    num_kv, num_keys = key_RKSW.shape[1:3]
    scale = width**-0.5 if scaling is None else scaling
    step = rows_at_once(num_heads * num_queries * num_keys, query_RHSW.device.type)
    output_RSHW = query_RHSW.new_empty(num_rows, num_queries, num_heads, width)
    for low in range(0, num_rows, step):
        rows = slice(low, min(low + step, num_rows))
        # Query heads that share a key head lie side by side: one product for all of them.
        query = query_RHSW[rows] * (scale if softcap is None else scale / softcap)
        query = query.reshape(-1, num_kv, num_heads // num_kv * num_queries, width)
        scores = query @ key_RKSW[rows].transpose(2, 3)
        scores = scores.view(-1, num_heads, num_queries, num_keys)
        mask = attention_mask[rows] if len(attention_mask) > 1 else attention_mask
        if softcap is None:
            scores += mask
        else:
            torch.add(mask, scores.tanh_(), alpha=softcap, out=scores)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value_RKSW.dtype)
        weights = weights.view(-1, num_kv, num_heads // num_kv * num_queries, num_keys)
        attended = (weights @ value_RKSW[rows]).view(-1, num_heads, num_queries, width)
        output_RSHW[rows] = attended.transpose(1, 2)
    return output_RSHW, None
