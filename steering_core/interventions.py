"""What steering does to a stream: operations along a vector, and the positions that they touch.

Shapes: D width; streams and vectors [..., D] broadcast against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from steering_core.hook_points import HookPoint

Operation = Literal["add", "project_out", "cap_above", "cap_below"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

Positions = Literal["all", "question", "candidate", "last"]
"""``all``: every position, pads too; ``question``: up to the question's last token; ``candidate``:
behind it; ``last``: the question's last token alone, which predicts the candidate's first."""


@dataclass(frozen=True, eq=False, slots=True)
class Intervention:
    """One configuration of steering: where, along which vector, how far, how, at which positions.

    Attributes:
        vector: [D] float32.
        coeff: what the operation takes, see ``intervene``.
    """

    point: HookPoint
    vector: np.ndarray
    coeff: float
    operation: Operation = "add"
    positions: Positions = "all"


def intervene(operation: Operation, resid: Tensor, vector: Tensor, coeff: float | Tensor) -> Tensor:
    """The stream [..., D] after an operation with a vector v [..., D] and a coefficient c.

    With u = v / |v| and p = x . u, the stream's projection::

        add          x + c v
        project_out  x - c p u          c = 1 takes the direction out, c = 0 changes nothing
        cap_above    x - max(0, p - c) u    the projection is at most c, in the stream's units
        cap_below    x + max(0, c - p) u    the projection is at least c

    The two caps are each other's with the sign turned: ``cap_below`` along v at c is ``cap_above``
    along -v at -c. Tools that hold a trait's projection down with the vector of its absence mean
    the one by the other. A vector of zero has no direction and changes nothing.

    Computed in float32 and cast to the stream's dtype, which is returned; nothing is changed in
    place.

    Sources: add, Rimsky et al. 2023 (contrastive activation addition); project_out, Arditi et al.
    2024 (directional ablation); caps, Lu et al. 2026 (activation capping).
    """
    if operation == "add":
        return resid + (coeff * vector).to(resid)
    unit = torch.nn.functional.normalize(vector.to(resid.device).float(), dim=-1)
    projection = (resid.float() * unit).sum(dim=-1, keepdim=True)
    if operation == "project_out":
        amount = -coeff * projection
    elif operation == "cap_above":
        amount = -(projection - coeff).clamp_min(0.0)
    else:
        amount = (coeff - projection).clamp_min(0.0)
    return resid + (amount * unit).to(resid.dtype)


def positions_slice(positions: Positions, num_question: int) -> slice:
    """The steered part of one sequence whose first ``num_question`` tokens are the question."""
    return {
        "all": slice(None),
        "question": slice(num_question),
        "candidate": slice(num_question, None),
        "last": slice(num_question - 1, num_question),
    }[positions]
