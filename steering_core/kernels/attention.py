"""Attention under an additive mask, with a soft-cap, in one kernel.

Keys and values are read where they lie: nothing is copied for the query heads that share a key
head, and no scores are written to memory. The mask is the one that ``trunk.masks`` makes once for a
batch: a few megabytes, which all heads of all blocks read from the device's cache. So trees,
sliding windows and forks of some positions (``prefix_reuse``) need no case of their own here.

Shapes: R sequences, T queries, S keys, H query heads, K key and value heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import triton
import triton.language as tl
from torch import Tensor, nn

from steering_core.attention import FUSED
from steering_core.kernels.functions import tanh
from steering_core.layout import ModelLayout

_BLOCK_QUERIES = 64
_SMALLEST_DOT = 16


@contextmanager
def attention_by(layout: ModelLayout, attend: Callable[..., Any]) -> Iterator[None]:
    """While open, the blocks call this function for attention (transformers' interface).

    The mask that a block is called with must be additive [R or 1, 1, T, S].
    """
    from transformers import AttentionInterface

    AttentionInterface.register(FUSED, attend)
    config = layout.config
    before = config._attn_implementation
    config._attn_implementation = FUSED
    try:
        yield
    finally:
        config._attn_implementation = before


def attend_in_kernel(
    _module: nn.Module,
    query_RHTW: Tensor,
    key_RKSW: Tensor,
    value_RKSW: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_options: Any,
) -> tuple[Tensor, None]:
    """Attention [R, T, H, W] as transformers' interface wants it."""
    if s_aux is not None:
        raise NotImplementedError("the attention kernel knows no sinks")
    if attention_mask is None:
        raise NotImplementedError("the attention kernel needs a mask")
    scale = query_RHTW.shape[-1] ** -0.5 if scaling is None else scaling
    return attention(
        query_RHTW, key_RKSW, value_RKSW, attention_mask, scale=scale, cap=softcap
    ), None


def attention(
    query_RHTW: Tensor,
    key_RKSW: Tensor,
    value_RKSW: Tensor,
    mask_R1TS: Tensor,
    *,
    scale: float,
    cap: float | None = None,
) -> Tensor:
    """What each query attends to [R, T, H, W], contiguous, in the dtype of the values.

    ``softmax(x + mask) @ value`` with ``x = scale * query @ key``, or
    ``x = cap * tanh(scale * query @ key / cap)``. Scores and sums are float32; the weights are
    rounded to the values' dtype before the product with them. H is a multiple of K, and query
    head h reads key head ``h // (H / K)``.

    Args:
        query_RHTW, key_RKSW, value_RKSW: bfloat16 or float16, with any strides but contiguous in W;
            not changed.
        mask_R1TS: [R or 1, 1, T, S] float, the dtype's minimum or -inf where a query does not see a
            key; each query sees at least one.
    """
    num_rows, num_heads, num_queries, width = query_RHTW.shape
    num_kv, num_keys = key_RKSW.shape[1:3]
    assert value_RKSW.shape == key_RKSW.shape
    assert num_heads % num_kv == 0
    assert mask_R1TS.shape[1:] == (1, num_queries, num_keys), mask_R1TS.shape
    query_RHTW, key_RKSW, value_RKSW, mask_R1TS = (
        x if x.stride(3) == 1 else x.contiguous()
        for x in (query_RHTW, key_RKSW, value_RKSW, mask_R1TS)
    )
    output_RTHW = value_RKSW.new_empty(num_rows, num_queries, num_heads, width)
    grid = (triton.cdiv(num_queries, _BLOCK_QUERIES), num_heads, num_rows)
    _attention[grid](
        query_RHTW,
        key_RKSW,
        value_RKSW,
        mask_R1TS,
        output_RTHW,
        *query_RHTW.stride()[:3],
        *key_RKSW.stride()[:3],
        *value_RKSW.stride()[:3],
        mask_R1TS.stride(0) if len(mask_R1TS) > 1 else 0,
        mask_R1TS.stride(2),
        num_queries,
        num_keys,
        width,
        float(scale),
        1.0 if cap is None else float(cap),
        GROUP=num_heads // num_kv,
        HAS_CAP=cap is not None,
        WIDTH=max(_SMALLEST_DOT, triton.next_power_of_2(width)),
        BLOCK_QUERIES=_BLOCK_QUERIES,
        BLOCK_KEYS=32 if width > 128 else 64,
        num_warps=8 if width > 128 else 4,
        num_stages=2,
    )
    return output_RTHW


# Strides of the streams are multiples of 16 in every batch, which loads of 16 bytes need to know.
# Numbers of positions are so in some batches: a program would be compiled for each case.
@triton.jit(do_not_specialize=["mask_row", "mask_query", "num_queries", "num_keys"])
def _attention(
    queries,
    keys,
    values,
    masks,
    outputs,
    query_row,
    query_head,
    query_at,
    key_row,
    key_head,
    key_at,
    value_row,
    value_head,
    value_at,
    mask_row,
    mask_query,
    num_queries,
    num_keys,
    width,
    scale,
    cap,
    GROUP: tl.constexpr,
    HAS_CAP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
):
    """One program for BLOCK_QUERIES queries of one head of one sequence."""
    head = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    w = tl.arange(0, WIDTH)
    is_query, is_width = t < num_queries, w < width
    query = tl.load(
        queries + row * query_row + head * query_head + t[:, None] * query_at + w[None, :],
        mask=is_query[:, None] & is_width[None, :],
        other=0.0,
    )
    largest = tl.full((BLOCK_QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_QUERIES,), tl.float32)
    summed = tl.zeros((BLOCK_QUERIES, WIDTH), tl.float32)
    keys += row * key_row + (head // GROUP) * key_head
    values += row * value_row + (head // GROUP) * value_head
    masks += row * mask_row + t[:, None] * mask_query
    for low in range(0, num_keys, BLOCK_KEYS):
        s = low + tl.arange(0, BLOCK_KEYS)
        is_key = s < num_keys
        key = tl.load(
            keys + s[None, :] * key_at + w[:, None],
            mask=is_key[None, :] & is_width[:, None],
            other=0.0,
        )
        scores = tl.dot(query, key) * scale
        if HAS_CAP:
            scores = cap * tanh(scores / cap)
        seen = tl.load(masks + s[None, :], mask=is_query[:, None] & is_key[None, :], other=0.0)
        scores = tl.where(is_key[None, :], scores + seen.to(tl.float32), float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        # A mask of -inf may hide every key so far.
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp(scores - shift[:, None])
        keep = tl.exp(largest - shift)
        total = total * keep + tl.sum(weights, axis=1)
        value = tl.load(
            values + s[:, None] * value_at + w[None, :],
            mask=is_key[:, None] & is_width[None, :],
            other=0.0,
        )
        summed = summed * keep[:, None] + tl.dot(weights.to(value.dtype), value)
        largest = new_largest
    attended = (summed / total[:, None]).to(outputs.dtype.element_ty)
    num_heads = tl.num_programs(1)
    tl.store(
        outputs + ((row * num_queries + t[:, None]) * num_heads + head) * width + w[None, :],
        attended,
        mask=is_query[:, None] & is_width[None, :],
    )
