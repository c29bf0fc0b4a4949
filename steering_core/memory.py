"""Bytes that a replica holds at its fullest, from shapes alone.

With e bytes of an entry, P = R S positions of a batch (padding included), D width, N blocks, H
query heads and K key and value heads of width W, I the longest side of a block's matrices, M
positions read, C columns of the head at a time, and k kept states::

    weights  = e parameters (tied ones once)
    streams  = e P D (k + 2)           kept where forks start or layers are read; one in, one out
             + e R S^2                 the mask, of each kind of attention
             + 2 e N P K W             keys and values, where forks leave a prefix to the trunk
    scratch  = the largest of
               e P (2 D + 3 I)                       MLP: gate, up, their product
               e P (2 D + 4 H W + 4 K W) + scores    attention; scores only where logits are capped:
                                                     (2 e + 4) H S^2 for the rows at a time
               12 P D                                pooling in float64, norms in float32
               e M D + (e + 8) M C                   logits in float32, and their exponentials
               2 e M D + (2 e + 12) M C              instead, of both sides, if kl is measured
               (e + 8) L V                           one sequence of L tokens on the slow path
               (e + 12) L V                          instead, if kl is measured

Not in it: what the framework takes for itself (on CUDA several hundred MB, and what its allocator
keeps), attention that forms all scores where logits are not capped, on the CPU the process.

Held to the growth of resident memory of a Gemma-2 of 18 blocks and width 512 on the CPU, float32,
in batches of 2,048 / 4,096 positions: streams and scratch of the baseline with 5 layers 81 / 172
MiB, measured 76 / 195; steered at 2 layers 67 / 142 MiB, measured 58 / 137. Not held to a GPU yet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from steering_core.attention import rows_at_once
from steering_core.scoring import Measure, columns_at_once
from steering_core.skeleton import Skeleton
from steering_core.work import BatchShape


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a replica (see the module's legend)."""

    weights_bytes: int
    streams_bytes: int
    scratch_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.streams_bytes + self.scratch_bytes


def weights_bytes(skeleton: Skeleton, dtype: str) -> int:
    """Bytes of a model's weights in a dtype."""
    return skeleton.num_params * _bytes_of(dtype)


def peak_memory(
    skeleton: Skeleton,
    batches: Sequence[BatchShape],
    dtype: str,
    device_type: str,
    *,
    num_kept: int,
    longest: int,
    reuses_prefix: bool = False,
    measures: Collection[Measure] = (),
) -> Memory:
    """What a replica holds with the fullest of these batches.

    Args:
        num_kept: states of a batch that are kept at a time: k.
        longest: tokens of the longest single sequence: L.
        measures: what is measured of steered rows beside scores.
    """
    size, weights = _bytes_of(dtype), weights_bytes(skeleton, dtype)
    has_kl = "kl" in measures
    slow = (size + (12 if has_kl else 8)) * longest * skeleton.vocab_size
    held = [
        (
            _streams(skeleton, batch, size, num_kept, reuses_prefix),
            max(slow, _scratch(skeleton, batch, size, device_type, has_kl)),
        )
        for batch in batches
    ]
    streams, scratch = max(held, key=sum, default=(0, slow))
    return Memory(weights, streams, scratch)


def generation_memory(
    skeleton: Skeleton,
    dtype: str,
    *,
    num_slots: int,
    num_columns: int,
    num_prompt_tokens: int,
) -> Memory:
    """What a replica holds while it writes answers in slots.

    ``streams_bytes`` are the keys and values of all slots, 2 e N R C K W. ``scratch_bytes`` are
    the largest of: the MLP over the prompts that begin together, the keys and values of one block
    copied for each query head, and float32 logits of a step with their probabilities.

    Args:
        num_slots: R, answers that are written at the same time.
        num_columns: C, tokens of the longest prompt and answer together.
        num_prompt_tokens: of the prompts that begin together.
    """
    s, size = skeleton, _bytes_of(dtype)
    cells = num_slots * num_columns * s.head_width
    cache = 2 * size * s.num_blocks * cells * s.num_kv_heads
    scratch = max(
        size * num_prompt_tokens * (2 * s.width + 3 * s.widest),
        2 * size * cells * s.num_heads,
        (size + 8) * num_slots * s.vocab_size,
    )
    return Memory(weights_bytes(s, dtype), cache, scratch)


def _streams(s: Skeleton, batch: BatchShape, size: int, num_kept: int, reuses_prefix: bool) -> int:
    positions = batch.num_tokens
    kept = size * positions * s.width * (num_kept + 2)
    masks = size * batch.num_sequences * batch.num_positions**2
    cache = 2 * size * s.num_blocks * positions * s.num_kv_heads * s.head_width
    return kept + masks + (cache if reuses_prefix else 0)


def _scratch(s: Skeleton, batch: BatchShape, size: int, device_type: str, has_kl: bool) -> int:
    positions, read = batch.num_tokens, batch.num_read
    heads = 4 * s.num_heads * s.head_width + 4 * s.num_kv_heads * s.head_width
    columns = min(s.vocab_size, columns_at_once(max(1, read), device_type))
    sides, per_logit = (2, 2 * size + 12) if has_kl else (1, size + 8)
    return max(
        size * positions * (2 * s.width + 3 * s.widest),
        size * positions * (2 * s.width + heads) + _scores(s, batch, size, device_type),
        12 * positions * s.width,
        sides * size * read * s.width + per_logit * read * columns,
    )


def _scores(s: Skeleton, batch: BatchShape, size: int, device_type: str) -> int:
    per_row = s.num_heads * batch.num_positions**2
    if not s.caps_attention or not per_row:
        return 0
    rows = min(batch.num_sequences, rows_at_once(per_row, device_type))
    return (2 * size + 4) * rows * per_row


def _bytes_of(dtype: str) -> int:
    of_name: torch.dtype = getattr(torch, dtype)
    return of_name.itemsize
