"""What is done at each hook point while rows with steering of their own come and go in slots.

Shapes: R slots, N rows, P positions of a prompt, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from steering_core.batch_steering import BatchSteering, steering_at
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.trunk import Change


class SlotSteering:
    """The steering of every slot; it stays on the device, and a row that begins changes its own.

    Args:
        points: every hook point at which some row will be steered.
        width: D.
    """

    def __init__(
        self, points: Sequence[HookPoint], num_slots: int, width: int, device: torch.device
    ) -> None:
        self.points = tuple(points)
        self._width = width
        self._device = device
        none: list[Intervention | None] = [None] * num_slots
        self._of_step = {p: steering_at(p, none, None, width, device) for p in points}
        self._added: dict[HookPoint, Tensor] = {}
        self._point_of: list[HookPoint | None] = [None] * num_slots

    def of_prompts(
        self, steering: Sequence[Intervention | None], at_NP: np.ndarray
    ) -> Mapping[HookPoint, BatchSteering]:
        """What is done to prompts [N, P, D] at some of their positions [N, P] bool."""
        used = sorted({own.point for own in steering if own is not None}) if at_NP.any() else []
        return {p: steering_at(p, steering, at_NP, self._width, self._device) for p in used}

    def begin(
        self, slots_N: Tensor, slots: Sequence[int], steering: Sequence[Intervention | None]
    ) -> None:
        """Rows begin in these slots; ``slots_N`` are the same on the device."""
        self._added.clear()
        for slot, own in zip(slots, steering, strict=True):
            self._point_of[slot] = None if own is None else own.point
        for point, kept in self._of_step.items():
            new = steering_at(point, steering, None, self._width, self._device)
            kept.direction[slots_N] = new.direction
            kept.terms[:, slots_N] = new.terms
            if new.has_projection and not kept.has_projection:
                self._of_step[point] = BatchSteering(kept.direction, kept.terms, None, True)

    def rest(self, slots_N: Tensor, slots: Sequence[int]) -> None:
        """Nothing more is done in these slots."""
        self.begin(slots_N, slots, [None] * len(slots))

    def of_step(self) -> Mapping[HookPoint, Change]:
        """What is done to one position [R, 1, D] of every slot."""
        used = set(self._point_of)
        return {
            point: kept if kept.has_projection else self._adding(point, kept)
            for point, kept in self._of_step.items()
            if point in used
        }

    def _adding(self, point: HookPoint, kept: BatchSteering) -> Change:
        """As ``kept``, where it adds the same at every step: multiplied once, and not at each."""

        def add(state_R1D: Tensor) -> Tensor:
            added = self._added.get(point)
            if added is None:
                added = self._added[point] = (kept.terms[0] * kept.direction).to(state_R1D)
            return state_R1D + added

        return add

    def end(self, slot: int) -> None:
        """The slot's row has ended: nothing needs to be done there for it."""
        self._point_of[slot] = None

    def keep(self, slots_R: Tensor, slots: Sequence[int]) -> None:
        """Keep these slots alone, in this order; ``slots_R`` are the same on the device."""
        self._added.clear()
        self._point_of = [self._point_of[slot] for slot in slots]
        self._of_step = {
            point: BatchSteering(
                kept.direction[slots_R], kept.terms[:, slots_R], None, kept.has_projection
            )
            for point, kept in self._of_step.items()
        }
