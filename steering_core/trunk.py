"""The unsteered pass over a batch, and what a fork of it needs.

Shapes: R sequences, S positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steering_core.attention import capped_attention
from steering_core.encoding import EncodedCandidate, EncodedExample
from steering_core.hook_points import HookPoint
from steering_core.hooks import capture
from steering_core.layout import ModelLayout
from steering_core.models import LoadedModel
from steering_core.packing import Batch, lay_out, tree_mask
from steering_core.replay import BlockCall, only_at, recorded_calls, replay
from steering_core.stereoset import LABELS, Example


@dataclass(frozen=True)
class Trunk:
    """One unsteered pass: the streams [R, S, D] that were kept, and each block's call."""

    streams: Mapping[int, Tensor]
    calls: Sequence[BlockCall]


def run_trunk(model: LoadedModel, batch: Batch, keep: set[int]) -> Trunk:
    """Run the blocks without steering up to the last stream (0..N) that is to be kept."""
    layout, device = model.layout, model.device
    position_RS = torch.as_tensor(batch.position_ids, device=device)
    inputs: dict[str, object] = {"input_ids": torch.as_tensor(batch.input_ids, device=device)}
    if batch.is_packed:
        branch_RS = torch.as_tensor(batch.branch, device=device)
        longest = int(batch.position_ids.max()) + 1
        inputs["attention_mask"] = _masks(model, branch_RS, position_RS, longest)
        inputs["position_ids"] = position_RS
    last = HookPoint(layout.num_blocks - 1, "resid_post")
    streams: dict[int, Tensor] = {}

    def on_call(stream: int, resid_RSD: Tensor) -> None:
        if stream in keep:
            streams[stream] = resid_RSD

    with (
        _attention(layout, batch),
        recorded_calls(layout, on_call, max(keep)) as calls,
        capture(layout, [last]) as captured,
    ):
        layout.decoder(**inputs, use_cache=False)
    if last.stream in keep:
        streams[last.stream] = captured[last]
    return Trunk(streams, calls)


def fork(
    model: LoadedModel,
    trunk: Trunk,
    batch: Batch,
    stream: int,
    steer: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What the last block leaves [R, S, D], right at the positions that the batch reads.

    ``steer`` changes a stream [R, S, D], and only the blocks above it run. The last block is
    computed the same way whether something was changed or not, so adding 0 changes no bit. Where
    the stream is the last block's own output, the trunk must have kept the one below it.
    """
    layout = model.layout
    below = min(stream, layout.num_blocks - 1)
    resid_RSD = trunk.streams[below]
    if steer is not None and stream == below:
        resid_RSD = steer(resid_RSD)
    with _attention(layout, batch):
        for block, call in zip(layout.blocks[below:-1], trunk.calls[below:-1], strict=True):
            resid_RSD = replay(block, call, resid_RSD)
        with only_at(layout.last_mlp, torch.as_tensor(batch.read_at)):
            resid_RSD = replay(layout.blocks[-1], trunk.calls[-1], resid_RSD)
    if steer is not None and stream != below:
        resid_RSD = steer(resid_RSD)
    return resid_RSD


def _attention(layout: ModelLayout, batch: Batch) -> AbstractContextManager[None]:
    """Our own attention where the masks are our own."""
    return capped_attention(layout) if batch.is_packed else nullcontext()


def _masks(
    model: LoadedModel, branch_RS: Tensor, position_RS: Tensor, longest: int
) -> Tensor | dict[str, Tensor]:
    """The tree mask; one for each kind of attention where a window is shorter than a sequence."""
    config = model.layout.config
    window = getattr(config, "sliding_window", None)
    whole = tree_mask(branch_RS, position_RS, model.dtype)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if window is None or longest <= int(window) or kinds == {"full_attention"}:
        return whole
    windowed = tree_mask(branch_RS, position_RS, model.dtype, int(window))
    if kinds == {"sliding_attention"}:
        return windowed
    return {"full_attention": whole, "sliding_attention": windowed}


_PROBE_PREFIX, _PROBE_BRANCHES = 280, (9, 7, 8)


def can_pack(model: LoadedModel, max_tokens: int | None) -> bool:
    """Whether a packed row gives what its sequences give one by one, tried on random tokens.

    False for architectures whose attention does not go by mask and position ids (ALiBi, windows by
    index, recurrences); they run as separate sequences.
    """
    rng = np.random.default_rng(0)
    prefix = min(_PROBE_PREFIX, (max_tokens or _PROBE_PREFIX + 9) - max(_PROBE_BRANCHES))
    ids = rng.integers(0, int(model.layout.config.vocab_size), prefix + sum(_PROBE_BRANCHES))
    branches = np.split(ids[prefix:], np.cumsum(_PROBE_BRANCHES)[:-1])
    a, b, c = (
        EncodedCandidate((*ids[:prefix], *own), (prefix,), (0,), (0, prefix), prefix)
        for own in branches
    )
    text = Example("probe", "", "", "", "", ("", "", ""), (LABELS[0], LABELS[1], LABELS[2]))
    row = EncodedExample(text, prefix, (a, b, c))
    last = model.layout.num_blocks
    with torch.inference_mode():
        try:
            packed = run_trunk(model, lay_out([row], [0]), {last}).streams[last]
        except Exception:  # an unknown architecture may refuse a tree mask in any way
            return False
        apart = run_trunk(model, lay_out([row], [0], is_packed=False), {last}).streams[last]
    wanted = torch.cat([apart[i, prefix : prefix + len(own)] for i, own in enumerate(branches)])
    gap = (packed[0, prefix:] - wanted).float().norm() / wanted.float().norm()
    return bool(gap < (1e-3 if model.dtype == torch.float32 else 0.1))
