"""Keys and values of rows that are written side by side and replaced when they end.

A slot holds one row, from column 0 on, so a row's keys lie where they would lie if it were alone,
and what stands behind its end is masked.

Shapes: R slots, N rows that begin, P positions of a prompt, C columns; K key and value heads of
width W.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

COLUMNS_AT_ONCE = 32
"""Columns are read in multiples of this: sums over them are then split the same way whatever the
longest row beside a row."""


class SlotCache(DynamicCache):  # type: ignore[misc]
    """Keys and values [R, K, C, W] of each block; a transformers cache for the model's forward.

    Call ``begin`` before a forward of new prompts, ``append`` before one of a token a slot.
    """

    def __init__(self, num_slots: int, num_columns: int) -> None:
        super().__init__()
        self._num_slots = num_slots
        self._num_columns = whole_columns(num_columns)
        self._kept: dict[int, list[Tensor]] = {}
        self._slots: Tensor | None = None
        self._columns: Tensor | None = None
        self._num_read = 0

    def begin(self, slots_N: Tensor) -> None:
        """What comes next are prompts [N, K, P, W] for these slots; what they held is gone."""
        self._slots, self._columns = slots_N, None

    def append(self, columns_R: Tensor, num_read: int) -> None:
        """What comes next is one position of each slot, for these columns.

        Args:
            num_read: columns that are read, more than the largest of them.
        """
        self._slots, self._columns, self._num_read = None, columns_R, whole_columns(num_read)

    def copy(self, into_N: Tensor, from_N: Tensor, lengths_N: Tensor, longest: int) -> None:
        """Slots hold the first columns of others, each as many as its length, and nothing else."""
        for kept in self._kept.values():
            for tensor in kept:
                device = tensor.device
                copied_NKPW = tensor[from_N.to(device), :, :longest]
                at_P = torch.arange(longest, device=device)
                is_behind_NP = at_P >= lengths_N.to(device)[:, None]
                copied_NKPW.masked_fill_(is_behind_NP[:, None, :, None], 0.0)
                tensor[into_N.to(device), :, :longest] = copied_NKPW
                tensor[into_N.to(device), :, longest:] = 0.0

    def clear(self, slots_N: Tensor) -> None:
        """Slots hold nothing."""
        for kept in self._kept.values():
            for tensor in kept:
                tensor[slots_N.to(tensor.device)] = 0.0

    def keep(self, slots: Tensor) -> None:
        """Keep these slots alone, in this order."""
        self._num_slots = len(slots)
        for kept in self._kept.values():
            kept[:] = [tensor[slots.to(tensor.device)] for tensor in kept]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        new = (key_states, value_states)
        kept = self._kept.get(layer_idx)
        if kept is None:
            kept = self._kept[layer_idx] = [self._empty_like(tensor) for tensor in new]
        if self._slots is not None:
            slots_N = self._slots.to(key_states.device)
            num_positions = key_states.shape[2]
            for into, tensor in zip(kept, new, strict=True):
                into[slots_N, :, :num_positions] = tensor
                # A row that overflowed may have left what is not finite: 0 times that is not 0.
                into[slots_N, :, num_positions:] = 0.0
            return new
        assert self._columns is not None, "neither begin nor append was called"
        columns_R = self._columns.to(key_states.device)
        every_R = torch.arange(len(columns_R), device=key_states.device)
        for into, tensor in zip(kept, new, strict=True):
            into[every_R, :, columns_R] = tensor[:, :, 0]
        return kept[0][:, :, : self._num_read], kept[1][:, :, : self._num_read]

    def _empty_like(self, states: Tensor) -> Tensor:
        _, num_heads, _, width = states.shape
        return states.new_zeros(self._num_slots, num_heads, self._num_columns, width)


def whole_columns(num: int) -> int:
    """The number of columns that is read for ``num`` of them."""
    return -(-num // COLUMNS_AT_ONCE) * COLUMNS_AT_ONCE


def slot_mask(
    columns_R: Tensor, num_read: int, dtype: torch.dtype, window: int | None = None
) -> Tensor:
    """Additive mask [R, 1, 1, C] of one position a slot, which sees the columns up to its own.

    Args:
        window: a position at column c sees columns > c - window.
    """
    at = torch.arange(whole_columns(num_read), device=columns_R.device)
    seen_RC = at <= columns_R[:, None]
    if window is not None:
        seen_RC &= at > columns_R[:, None] - window
    mask = torch.zeros(seen_RC.shape, dtype=dtype, device=columns_R.device)
    return mask.masked_fill_(~seen_RC, torch.finfo(dtype).min)[:, None, None]
