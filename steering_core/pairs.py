"""Streams of paired pooled states, and what every fit over them needs.

Shapes: N pairs, n pairs of one chunk, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steering_core.errors import InputError

Pairs = Iterable[tuple[np.ndarray, np.ndarray]]
"""Chunks (anti-stereotype [n, D], stereotype [n, D]), float32 or float64; row i of both is one
example. Fits go over them several times, so each iteration must start anew."""


class StateChunk(NamedTuple):
    """Some examples of a group at one layer: fold [n], pooled states [n, D] of both candidates."""

    folds: np.ndarray
    anti: np.ndarray
    stereotype: np.ndarray


@dataclass(frozen=True)
class OutsideFold:
    """The pairs of every fold but one, or of all folds where ``fold`` is None."""

    chunks: Iterable[StateChunk]
    fold: int | None = None

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for folds, anti, stereotype in self.chunks:
            if self.fold is None:
                yield anti, stereotype
            else:
                yield anti[folds != self.fold], stereotype[folds != self.fold]


@dataclass(frozen=True)
class PairMeans:
    """Means [D] float64 over the pairs of a stream, and their number N.

    Attributes:
        difference: mean of (anti-stereotype - stereotype); not zero.
    """

    anti: np.ndarray
    stereotype: np.ndarray
    difference: np.ndarray
    num_pairs: int

    @classmethod
    def of(cls, pairs: Pairs, what: str) -> PairMeans:
        """The means, after one pass.

        Args:
            what: is fitted from the pairs, for messages.

        Raises:
            InputError: no pair, a state that is not finite, or a mean difference of zero.
        """
        if iter(pairs) is pairs:
            raise ValueError("pairs must start anew with each iteration, got an iterator")
        anti_total = stereotype_total = difference_total = np.zeros(1)
        num_pairs = 0
        for anti, stereotype in in_float64(pairs):
            if not (np.isfinite(anti).all() and np.isfinite(stereotype).all()):
                raise InputError(
                    f"a pooled state is not finite, so {what} cannot be fitted; with a float16 "
                    "model, try dtype bfloat16 or float32"
                )
            anti_total = anti_total + anti.sum(axis=0)
            stereotype_total = stereotype_total + stereotype.sum(axis=0)
            difference_total = difference_total + (anti - stereotype).sum(axis=0)
            num_pairs += len(anti)
        if num_pairs == 0:
            raise InputError(f"there is no example to fit {what} with")
        if not difference_total.any():
            raise InputError(
                f"the mean difference is zero, so {what} has neither direction nor size; use more "
                "examples, or another layer"
            )
        return cls(
            anti=anti_total / num_pairs,
            stereotype=stereotype_total / num_pairs,
            difference=difference_total / num_pairs,
            num_pairs=num_pairs,
        )

    def push_along(self, direction_D: np.ndarray) -> np.ndarray:
        """The direction [D] float64, made as long as the mean difference and turned its way.

        So a coefficient means the same size of push whatever the method of the vector.
        """
        size = float(np.linalg.norm(self.difference) / np.linalg.norm(direction_D))
        pushed_D: np.ndarray = direction_D * (-size if direction_D @ self.difference < 0 else size)
        return pushed_D


def in_float64(pairs: Pairs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The chunks of a stream that hold a pair, in float64."""
    for anti, stereotype in pairs:
        assert anti.shape == stereotype.shape, f"{anti.shape} against {stereotype.shape}"
        if len(anti):
            yield anti.astype(np.float64, copy=False), stereotype.astype(np.float64, copy=False)
