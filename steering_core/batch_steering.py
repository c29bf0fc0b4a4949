"""Interventions of a whole batch at once: each sequence may have its own.

All operations are one formula, so that a batch of different configurations costs what a batch of
equal ones costs. With p the projection of the state on the direction d::

    state + clamp(offset + slope p, low, high) d

                 d      offset  slope   low   high
    add          v      c       0       -inf  inf
    project_out  v/|v|  0       -c      -inf  inf
    cap_above    v/|v|  c       -1      -inf  0
    cap_below    v/|v|  c       -1      0     inf

Shapes: R sequences, S positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steering_core.hook_points import HookPoint
from steering_core.interventions import OPERATIONS, Intervention
from steering_core.packing import Batch
from steering_core.placing import upload


@dataclass(frozen=True)
class BatchSteering:
    """What is done to a state [R, S, D] at one hook point.

    Attributes:
        direction: [R, 1, D] float32; 0 for a sequence that is not steered here.
        terms: offset, slope, low and high, [4, R, 1, 1] float32.
        at: [R, S, 1] bool, the positions that are steered; None for all of them.
        has_projection: whether any operation looks at the state; decided by operations and not
            by coefficients, so that one compiled program serves all of those.
    """

    direction: Tensor
    terms: Tensor
    at: Tensor | None
    has_projection: bool

    def __call__(self, state_RSD: Tensor) -> Tensor:
        """The state after the interventions, in its own dtype; computed in float32."""
        direction_R1D = self.direction.to(state_RSD.device)
        amount = self._amount(state_RSD, direction_R1D)
        if self.at is not None:
            amount = torch.where(self.at.to(state_RSD.device), amount, 0.0)
        changed_RSD: Tensor = state_RSD + (amount * direction_R1D).to(state_RSD.dtype)
        return changed_RSD

    def _amount(self, state_RSD: Tensor, direction_R1D: Tensor) -> Tensor:
        """How far along the direction [R, S or 1, 1]."""
        offset, slope, low, high = self.terms.to(state_RSD.device).unbind()
        if not self.has_projection:
            return offset
        projection_RS1 = state_RSD.float() @ direction_R1D.transpose(1, 2)
        # 0 times an overflow is not 0.
        sloped = torch.where(slope == 0, 0.0, slope * projection_RS1)
        return (offset + sloped).clamp(low, high)

    def only(self, index_RT: Tensor) -> BatchSteering:
        """The same for a state [R, T, D] that holds these positions of each sequence."""
        if self.at is None:
            return self
        at_RT1 = self.at.to(index_RT.device).gather(1, index_RT[:, :, None])
        return BatchSteering(self.direction, self.terms, at_RT1, self.has_projection)


def steering_of(
    interventions: Sequence[Intervention], batch: Batch, device: torch.device
) -> dict[HookPoint, BatchSteering]:
    """What is done at each hook point, in the order of a forward pass.

    Args:
        interventions: [R], one for each sequence of the batch.
    """
    return {
        point: _steering_in_batch(point, interventions, batch, device)
        for point in sorted({i.point for i in interventions})
    }


def steering_at(
    point: HookPoint,
    interventions: Sequence[Intervention | None],
    at_RS: np.ndarray | None,
    width: int,
    device: torch.device,
) -> BatchSteering:
    """What is done at one hook point, whatever positions the interventions name.

    Args:
        interventions: [R], one for each sequence; those elsewhere, and None, change nothing here.
        at_RS: bool, the positions that are steered; None for all of them.
        width: D.
    """
    num = len(interventions)
    direction_RD = np.zeros((num, width), np.float32)
    terms_R4 = np.tile(np.asarray(OPERATIONS["add"].terms(0.0), np.float32), (num, 1))
    for row, own in enumerate(interventions):
        if own is not None and own.point == point:
            direction_RD[row] = own.vector
            terms_R4[row] = OPERATIONS[own.operation].terms(own.coeff)
    needs_unit = [
        own is not None and own.point == point and OPERATIONS[own.operation].reads_projection
        for own in interventions
    ]
    direction = torch.from_numpy(direction_RD)
    if any(needs_unit):
        unit_RD = torch.nn.functional.normalize(direction, dim=-1)
        direction = torch.where(torch.tensor(needs_unit)[:, None], unit_RD, direction)
    return BatchSteering(
        direction=upload(direction[:, None], device),
        terms=upload(torch.from_numpy(terms_R4.T.copy())[:, :, None, None], device),
        at=None if at_RS is None else upload(torch.from_numpy(at_RS)[:, :, None], device),
        has_projection=any(needs_unit),
    )


def _steering_in_batch(
    point: HookPoint, interventions: Sequence[Intervention], batch: Batch, device: torch.device
) -> BatchSteering:
    here_R = np.asarray([i.point == point for i in interventions])
    at_RS = _positions(interventions, here_R, batch)
    return steering_at(point, interventions, at_RS, len(interventions[0].vector), device)


def _positions(
    interventions: Sequence[Intervention], here_R: np.ndarray, batch: Batch
) -> np.ndarray | None:
    kinds = {i.positions for i, here in zip(interventions, here_R, strict=True) if here}
    if kinds == {"all"}:
        return None
    at_RS = np.zeros(batch.input_ids.shape, bool)
    for kind in kinds:
        chosen_R = here_R & np.asarray([i.positions == kind for i in interventions])
        at_RS[chosen_R] = batch.steered_at(kind)[chosen_R]
    return at_RS
