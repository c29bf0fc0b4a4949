"""What steering does to a stream: operations along a vector, and the positions that they touch.

Shapes: D width; streams and vectors [..., D] broadcast against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steering_core.hook_points import HookPoint

Positions = Literal["all", "question", "candidate", "last"]
"""``all``: every position, pads too; ``question``: up to the question's last token; ``candidate``:
behind it; ``last``: the question's last token alone, which predicts the candidate's first."""


Terms = tuple[float, float, float, float]
"""Offset, slope, low and high: ``clamp(offset + slope p, low, high)`` along the direction, with the
stream's projection p on it."""

_INF = float("inf")


@dataclass(frozen=True)
class Operation:
    """What steering can do to a stream along a direction, stated twice.

    Attributes:
        words: for a sentence of a report; the coefficient and the vector are its subjects.
        terms: from a coefficient, what the engine computes. Rows with different operations share a
            forward pass because all operations have this form.
        trial_coeff: a coefficient that changes a model's scores, for checks that try every
            operation.
        amount: from the projection p [..., 1] and a coefficient, how far the stream moves along the
            unit vector [..., 1]. The slow reference computes it, so write the formula of the paper
            and not ``terms`` again. None: the coefficient times the vector is added, and the
            projection does not matter.
    """

    words: str
    terms: Callable[[float], Terms]
    trial_coeff: float
    amount: Callable[[Tensor, float | Tensor], Tensor] | None = None

    @property
    def reads_projection(self) -> bool:
        """Whether the state decides how far it moves."""
        return self.amount is not None


_OPERATIONS: dict[str, Operation] = {
    "add": Operation(
        "the coefficient times the vector is added",
        lambda c: (c, 0.0, -_INF, _INF),
        trial_coeff=1.0,
    ),
    "project_out": Operation(
        "the coefficient times the projection on the vector is subtracted",
        lambda c: (0.0, -c, -_INF, _INF),
        trial_coeff=1.0,
        amount=lambda p, c: -c * p,
    ),
    # A random direction's projection is nearer to 0 than 16, so these caps change every position.
    "cap_above": Operation(
        "the projection on the vector is limited to at most the coefficient",
        lambda c: (c, -1.0, -_INF, 0.0),
        trial_coeff=-16.0,
        amount=lambda p, c: -(p - c).clamp_min(0.0),
    ),
    "cap_below": Operation(
        "the projection on the vector is raised to at least the coefficient",
        lambda c: (c, -1.0, 0.0, _INF),
        trial_coeff=16.0,
        amount=lambda p, c: (c - p).clamp_min(0.0),
    ),
}
OPERATIONS: Mapping[str, Operation] = _OPERATIONS
"""By the name in sweep files. An operation is one entry: specs, engine, reference and reports read
it from here."""


@contextmanager
def registered(name: str, operation: Operation) -> Iterator[None]:
    """Know one more operation for as long as the context lasts, in this process: for tests."""
    assert name not in _OPERATIONS, f"{name} is an operation already"
    _OPERATIONS[name] = operation
    try:
        yield
    finally:
        del _OPERATIONS[name]


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
    operation: str = "add"
    positions: Positions = "all"


def intervene(operation: str, resid: Tensor, vector: Tensor, coeff: float | Tensor) -> Tensor:
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
    amount_of = OPERATIONS[operation].amount
    if amount_of is None:
        return resid + (coeff * vector).to(resid)
    unit = torch.nn.functional.normalize(vector.to(resid.device).float(), dim=-1)
    projection = (resid.float() * unit).sum(dim=-1, keepdim=True)
    return resid + (amount_of(projection, coeff) * unit).to(resid.dtype)


def positions_slice(positions: Positions, num_question: int) -> slice:
    """The steered part of one sequence whose first ``num_question`` tokens are the question."""
    return {
        "all": slice(None),
        "question": slice(num_question),
        "candidate": slice(num_question, None),
        "last": slice(num_question - 1, num_question),
    }[positions]
