"""How far steering moves a next-token distribution, from logits by slices of the vocabulary.

For logits s and u (steered and unsteered) of one position, less the largest of each, a and b::

    D_KL(P_steered || P_unsteered) = sum w ((s - a) - (u - b)) / sum w - log(sum w / sum v)
    w = exp(s - a), v = exp(u - b)

So three sums are enough, and slices may come one after the other: when one has a larger logit, the
sums are carried over to it. Both sides are summed in the same way, so that equal logits diverge by
exactly 0.

Shapes: M positions, C columns of a slice.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Divergence:
    """Running sums of D_KL(P_steered || P_unsteered) at M positions."""

    def __init__(self, num_positions: int, device: torch.device) -> None:
        # Hundreds of slices add up to a visible error in float32. MPS has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._total, self._total_before, self._gaps = (
            torch.zeros(num_positions, dtype=dtype, device=device) for _ in range(3)
        )
        self._tops: tuple[Tensor, Tensor] | None = None

    def add(self, logits_MC: Tensor, unsteered_MC: Tensor) -> None:
        """Take in a slice of the vocabulary: float32 logits, which may be changed in place."""
        top_M, top_before_M = logits_MC.amax(dim=-1), unsteered_MC.amax(dim=-1)
        if self._tops is not None:
            top_M = torch.maximum(top_M, self._tops[0])
            top_before_M = torch.maximum(top_before_M, self._tops[1])
            self._carry_over(self._tops[0] - top_M, self._tops[1] - top_before_M)
        self._tops = top_M, top_before_M
        logits_MC.sub_(top_M[:, None])
        unsteered_MC.sub_(top_before_M[:, None])
        gaps_MC = logits_MC - unsteered_MC
        weights_MC = logits_MC.exp_()
        self._total = self._total + weights_MC.sum(dim=-1)
        self._total_before = self._total_before + unsteered_MC.exp_().sum(dim=-1)
        self._gaps = self._gaps + gaps_MC.mul_(weights_MC).sum(dim=-1)

    def _carry_over(self, drop_M: Tensor, drop_before_M: Tensor) -> None:
        """Have the sums be of logits less new largest ones, which differ by so much: 0 or less."""
        self._gaps = (self._gaps + self._total * (drop_M - drop_before_M)) * drop_M.exp()
        self._total = self._total * drop_M.exp()
        self._total_before = self._total_before * drop_before_M.exp()

    def value(self) -> Tensor:
        """Nats [M] float32 of the slices so far; NaN where a logit is not finite.

        Rounding alone would make it negative, so it is at least 0.
        """
        log_ratio_M = torch.log(self._total / self._total_before)
        return (self._gaps / self._total - log_ratio_M).clamp(min=0.0).float()
