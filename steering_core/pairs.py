"""Paired pooled states of a group at one layer, and what every fit over them needs.

Shapes: N pairs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steersweep.errors import UserError


@dataclass(frozen=True)
class Pairs:
    """Pooled states of both candidates; row i of each array is the same example.

    Attributes:
        anti: [N, D] float32 or float64, of the anti-stereotypes.
        stereotype: likewise, of the stereotypes.
        folds: [N] int, the fold of each example.
    """

    anti: np.ndarray
    stereotype: np.ndarray
    folds: np.ndarray

    def __post_init__(self) -> None:
        assert self.anti.shape == self.stereotype.shape, (self.anti.shape, self.stereotype.shape)
        assert self.folds.shape == self.anti.shape[:1], (self.folds.shape, self.anti.shape)

    def __len__(self) -> int:
        return len(self.anti)

    def outside(self, fold: int) -> Pairs:
        """The pairs of every other fold."""
        keep = self.folds != fold
        return Pairs(self.anti[keep], self.stereotype[keep], self.folds[keep])

    def with_labels(self, signs: np.ndarray) -> Pairs:
        """The same examples, the two states of some exchanged.

        Args:
            signs: [N], -1 where stereotype and anti-stereotype change places, +1 elsewhere
                (``nulls.label_signs``).
        """
        is_swapped = (signs < 0)[:, None]
        return Pairs(
            np.where(is_swapped, self.stereotype, self.anti),
            np.where(is_swapped, self.anti, self.stereotype),
            self.folds,
        )

    def differences(self) -> np.ndarray:
        """Anti-stereotype - stereotype [N, D], subtracted in float64: both are nearly the same."""
        difference_ND: np.ndarray = np.subtract(self.anti, self.stereotype, dtype=np.float64)
        return difference_ND


@dataclass(frozen=True)
class PairMeans:
    """Means [D] float64 over N pairs.

    Attributes:
        difference: mean of (anti-stereotype - stereotype); not zero.
    """

    anti: np.ndarray
    stereotype: np.ndarray
    difference: np.ndarray

    @classmethod
    def of(cls, pairs: Pairs, what: str) -> PairMeans:
        """The means of some pairs.

        Args:
            what: names what is fitted from the pairs, for messages.

        Raises:
            UserError: no pair, a state that is not finite, or a mean difference of zero.
        """
        if not len(pairs):
            raise UserError(f"there is no example to fit {what} with")
        if not (np.isfinite(pairs.anti).all() and np.isfinite(pairs.stereotype).all()):
            raise UserError(
                f"a pooled state is not finite, so {what} cannot be fitted; with a float16 "
                "model, try dtype bfloat16 or float32"
            )
        difference_D = pairs.differences().mean(axis=0)
        if not difference_D.any():
            raise UserError(
                f"the mean difference is zero, so {what} has neither direction nor size; use more "
                "examples, or another layer"
            )
        return cls(
            anti=pairs.anti.mean(axis=0, dtype=np.float64),
            stereotype=pairs.stereotype.mean(axis=0, dtype=np.float64),
            difference=difference_D,
        )

    def push_along(self, direction_D: np.ndarray) -> np.ndarray:
        """The direction [D] float64 with the norm and the sign of the mean difference.

        So a coefficient means the same size of push for each method.
        """
        size = float(np.linalg.norm(self.difference) / np.linalg.norm(direction_D))
        pushed_D: np.ndarray = direction_D * (-size if direction_D @ self.difference < 0 else size)
        return pushed_D


def centered_states(pairs: Pairs, anti_D: np.ndarray, stereotype_D: np.ndarray) -> np.ndarray:
    """All states [2 N, D] float64, the anti-stereotypes first, less one center for each class."""
    num_pairs, width = pairs.anti.shape
    states_ND = np.empty((2 * num_pairs, width))
    # Written in place: at width 8192, each float64 copy of all states takes 128 MB.
    np.subtract(pairs.anti, anti_D, out=states_ND[:num_pairs])
    np.subtract(pairs.stereotype, stereotype_D, out=states_ND[num_pairs:])
    return states_ND
