"""Steering that leaves a row's prefix alone: its keys and values are the trunk's.

A position sees only positions that lie before it in its row. So what lies before the first steered
one is as the trunk left it, in every block: a fork computes the positions from there on, and takes
the keys and values of the others from the trunk.

Shapes: R rows, S positions, T positions of a row that are computed again, D width; K key and value
heads of width W.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from steering_core.batch_steering import BatchSteering
from steering_core.hook_points import HookPoint
from steering_core.interventions import Positions
from steering_core.models import LoadedModel
from steering_core.packing import Batch, room_behind
from steering_core.placing import PlacedBatch, upload
from steering_core.replay import BlockCall, recorded_calls
from steering_core.trunk import masks, our_attention, run_fork, run_trunk


@dataclass(frozen=True)
class PrefixTrunk:
    """A trunk whose forks compute some positions of each row alone.

    Attributes:
        index: [R, T] int64, those positions.
        states: [R, T, D], of the trunk, at these positions.
        left: [R, S, D], what the trunk's last block left.
        calls: each block's call for these positions.
    """

    index: Tensor
    states: Mapping[HookPoint, Tensor]
    left: Tensor
    calls: Sequence[BlockCall]


class _KeysAndValues(DynamicCache):  # type: ignore[misc]
    """Keys and values [R, K, S, W] of each block: a trunk's, with some positions' replaced.

    Until ``index`` is set, what comes is kept. From then on what comes belongs to these
    positions and is written over what was kept there, which the fork before may have left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.index: Tensor | None = None
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.index is None:
            self._kept[layer_idx] = key_states.contiguous(), value_states.contiguous()
            return self._kept[layer_idx]
        index = self.index[:, None, :, None].to(key_states.device)
        for kept, new in zip(self._kept[layer_idx], (key_states, value_states), strict=True):
            kept.scatter_(2, index.expand_as(new), new)
        return self._kept[layer_idx]


def run_prefix_trunk(
    model: LoadedModel, batch: PlacedBatch, keep: Collection[HookPoint], positions: Positions
) -> PrefixTrunk:
    """The unsteered pass through all blocks, for forks that steer these positions of packed rows.

    Args:
        keep: where forks start, see ``fork_point``.
    """
    layout = model.layout
    last = HookPoint(layout.num_blocks - 1, "resid_post")
    kept = _KeysAndValues()
    trunk = run_trunk(model, batch, {*keep, last}, past_key_values=kept)
    index_RT = upload(torch.from_numpy(steered_and_behind(batch.host, positions)), model.device)
    kept.index = index_RT
    whole = masks(model, batch)
    inputs = {
        "input_ids": batch.input_ids.gather(1, index_RT),
        "position_ids": batch.position_ids.gather(1, index_RT),
        "attention_mask": {kind: _rows_of(mask, index_RT) for kind, mask in whole.items()}
        if isinstance(whole, dict)
        else _rows_of(whole, index_RT),
    }
    with our_attention(layout, batch), recorded_calls(layout, num_run=0) as calls:
        layout.decoder(**inputs, past_key_values=kept, use_cache=False)
    states = {point: _take(trunk.states[point], index_RT) for point in keep}
    return PrefixTrunk(index_RT, states, trunk.states[last], calls)


def fork_behind_prefix(
    model: LoadedModel,
    trunk: PrefixTrunk,
    batch: PlacedBatch,
    changes: Mapping[HookPoint, BatchSteering],
) -> Tensor:
    """As ``trunk.fork``: what the last block leaves [R, S, D]."""
    index_RT = trunk.index
    only = {point: change.only(index_RT) for point, change in changes.items()}
    with our_attention(model.layout, batch):
        left_RTD = run_fork(model.layout, trunk.states, trunk.calls, only)
    index = index_RT[:, :, None].to(left_RTD.device).expand_as(left_RTD)
    return trunk.left.to(left_RTD.device).scatter(1, index, left_RTD)


def steered_and_behind(batch: Batch, positions: Positions) -> np.ndarray:
    """Index [R, T] of the positions of each row from the first steered one on.

    Shorter rows repeat their last position: it is computed twice, to the same end. Half of a static
    batch's positions, or all of them.
    """
    is_token_RS = batch.branch >= 0
    first_R = (batch.steered_at(positions) & is_token_RS).argmax(axis=1)
    last_R = is_token_RS.sum(axis=1) - 1
    most = int((last_R - first_R).max()) + 1
    if batch.is_static:
        most = room_behind(most, batch.input_ids.shape[1])
    index_RT: np.ndarray = np.minimum(first_R[:, None] + np.arange(most), last_R[:, None])
    return index_RT


def _take(state_RSD: Tensor, index_RT: Tensor) -> Tensor:
    index = index_RT[:, :, None].to(state_RSD.device)
    return state_RSD.gather(1, index.expand(-1, -1, state_RSD.shape[-1]))


def _rows_of(mask_RSS: Tensor, index_RT: Tensor) -> Tensor:
    """The queries' rows [R, 1, T, S] of a mask [R, 1, S, S]."""
    index = index_RT[:, None, :, None]
    return mask_RSS.gather(2, index.expand(-1, -1, -1, mask_RSS.shape[-1]))
