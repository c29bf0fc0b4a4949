"""The unsteered pass over a batch, and what a fork of it needs.

Shapes: R sequences, S positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steering_core.attention import capped_attention
from steering_core.hook_points import HookPoint
from steering_core.hooks import capture, change, observe
from steering_core.layout import ModelLayout
from steering_core.models import LoadedModel
from steering_core.packing import tree_mask
from steering_core.placing import PlacedBatch
from steering_core.replay import BlockCall, only_at, recorded_calls, replay

Change = Callable[[Tensor], Tensor]
"""What becomes of a state [R, S, D]."""

Reader = tuple[HookPoint, Callable[[Tensor], None]]
"""What is called with the state [R, S, D] of a hook point when a pass comes to it."""


@dataclass(frozen=True)
class Trunk:
    """One unsteered pass: the states [R, S, D] that were kept, and each block's call."""

    states: Mapping[HookPoint, Tensor]
    calls: Sequence[BlockCall]


def fork_point(point: HookPoint, num_blocks: int) -> HookPoint:
    """Where a fork starts that changes something at this point: what a trunk must keep for it.

    The stream that a block reads is what the block below leaves, which need not run again.
    """
    return HookPoint(min(point.stream, num_blocks - 1), "resid_pre")


def num_trunk_blocks(keep: Collection[HookPoint]) -> int:
    """Blocks that a trunk runs to get to the last of these states."""
    return 1 + max(p.block - (p.site == "resid_pre") for p in keep)


def run_trunk(
    model: LoadedModel,
    batch: PlacedBatch,
    keep: Collection[HookPoint],
    readers: Sequence[Reader] = (),
    **inputs: object,
) -> Trunk:
    """Run the blocks without steering up to the last state that is to be kept or read.

    Args:
        readers: for states that need not be held until the pass is over.
        inputs: more for the decoder, for instance a cache of keys and values.
    """
    layout = model.layout
    num_run = num_trunk_blocks({*keep, *(point for point, _ in readers)})
    with (
        our_attention(layout, batch),
        recorded_calls(layout, num_run) as calls,
        capture(layout, keep) as states,
        observe(layout, readers),
    ):
        layout.decoder(**_decoder_inputs(model, batch), **inputs, use_cache=False)
    return Trunk(states, calls)


def fork(
    model: LoadedModel,
    trunk: Trunk,
    batch: PlacedBatch,
    changes: Mapping[HookPoint, Change],
) -> Tensor:
    """What the last block leaves [R, S, D], right at the positions that the batch reads.

    Only the blocks above the lowest change run. The last block is computed the same way whether
    something was changed or not, so adding 0 changes no bit.
    """
    layout = model.layout
    with our_attention(layout, batch), only_at(layout.last_mlp, batch.read_at):
        return run_fork(layout, trunk.states, trunk.calls, changes)


def run_fork(
    layout: ModelLayout,
    states: Mapping[HookPoint, Tensor],
    calls: Sequence[BlockCall],
    changes: Mapping[HookPoint, Change],
) -> Tensor:
    """The blocks from the lowest change up, on the stream that was kept there."""
    last = HookPoint(layout.num_blocks - 1, "resid_post")
    start = min(fork_point(p, layout.num_blocks) for p in changes or (last,))
    resid_RSD = states[start]
    # The stream is changed as the block reads it; the block that left it does not run.
    read = [
        (p if p.site != "resid_post" or p == last else HookPoint(p.block + 1, "resid_pre"), action)
        for p, action in sorted(changes.items())
    ]
    with change(layout, read):
        for block, call in zip(layout.blocks[start.block :], calls[start.block :], strict=True):
            resid_RSD = replay(block, call, resid_RSD)
    return resid_RSD


def our_attention(layout: ModelLayout, batch: PlacedBatch) -> AbstractContextManager[None]:
    """Our own attention where the masks are our own."""
    return capped_attention(layout) if batch.host.is_packed else nullcontext()


def _decoder_inputs(model: LoadedModel, batch: PlacedBatch) -> dict[str, object]:
    inputs: dict[str, object] = {"input_ids": batch.input_ids}
    if batch.host.is_packed:
        inputs["attention_mask"] = masks(model, batch)
        inputs["position_ids"] = batch.position_ids
    return inputs


def masks(model: LoadedModel, batch: PlacedBatch) -> Tensor | dict[str, Tensor]:
    """The tree mask; one for each kind of attention where a window is shorter than a sequence."""
    branch_RS, position_RS = batch.branch, batch.position_ids
    return masks_by_kind(
        model.layout.config,
        batch.host.longest,
        lambda window: tree_mask(branch_RS, position_RS, model.dtype, window),
    )


def masks_by_kind(
    config: Any, longest: int, mask: Callable[[int | None], Tensor]
) -> Tensor | dict[str, Tensor]:
    """The mask of a model's blocks, or one for each kind of attention that it has.

    Args:
        longest: positions of the longest sequence; no window is needed that holds them all.
        mask: makes the mask with a sliding window, or without one.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if window is None or longest <= int(window) or kinds == {"full_attention"}:
        return mask(None)
    windowed = mask(int(window))
    if kinds == {"sliding_attention"}:
        return windowed
    return {"full_attention": mask(None), "sliding_attention": windowed}
