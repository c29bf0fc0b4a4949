"""How far hidden states share one direction: anisotropy, from sums that tasks add up.

Shapes: N states of width D.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StateSums:
    """Sums over states at one layer.

    Attributes:
        total: [D] float64, of the states.
        unit_total: [D] float64, of the states divided by their norms; a state of zeros adds none.
        norm_total: of the norms.
        num_states: states in the sums.
    """

    total: np.ndarray
    unit_total: np.ndarray
    norm_total: float
    num_states: int

    @classmethod
    def of(cls, states_ND: np.ndarray) -> StateSums:
        """The sums of some states, in float64."""
        states_ND = states_ND.astype(np.float64)
        norm_N = np.linalg.norm(states_ND, axis=1)
        unit_ND = states_ND / np.where(norm_N > 0, norm_N, 1.0)[:, None]
        return cls(states_ND.sum(axis=0), unit_ND.sum(axis=0), float(norm_N.sum()), len(states_ND))

    @classmethod
    def joined(cls, sums: Iterable[StateSums]) -> StateSums:
        """The sums of all together; at least one."""
        every = list(sums)
        return cls(
            np.sum([s.total for s in every], axis=0),
            np.sum([s.unit_total for s in every], axis=0),
            sum(s.norm_total for s in every),
            sum(s.num_states for s in every),
        )

    @property
    def mean_norm(self) -> float:
        """Mean norm of a state."""
        return self.norm_total / self.num_states

    @property
    def mean_cosine(self) -> float:
        """Mean cosine of a state to the direction of the mean state; NaN where that mean is 0.

        0 where states point everywhere alike, 1 where all point one way. The mean of cosines is
        the cosine's numerator with the mean of unit states, so sums are enough.
        """
        norm = float(np.linalg.norm(self.total))
        if norm == 0:
            return float("nan")
        return float(self.unit_total @ self.total) / (norm * self.num_states)

    @property
    def mean_pairwise_cosine(self) -> float:
        """Mean cosine of two different states; NaN of fewer than two.

        Source: Ethayarajh 2019, "How contextual are contextualized word representations?", of all
        pairs instead of drawn ones: the squared norm of the sum of unit states is the sum over
        pairs.
        """
        pairs = self.num_states * (self.num_states - 1)
        if not pairs:
            return float("nan")
        return (float(self.unit_total @ self.unit_total) - self.num_states) / pairs
