"""How far the fast path is from the slow one: comparison of rows, tolerances, and their sum.

What is compared is what the model computes from token ids. Encoding is shared by both paths.

Shapes: N rows, C candidates of a row, D width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from steering_core.scoring import choose
from steersweep.errors import UserError

Path = Literal["engine", "reference"]
"""Which path the rows in storage come from."""

Quantity = Literal["score", "pooled", "stream_norm", "kl", "token"]
_WORDS: Mapping[Quantity, str] = {
    "score": "score",
    "pooled": "pooled state",
    "stream_norm": "mean norm of the stream",
    "kl": "divergence from the unsteered distribution",
    "token": "token of an answer",
}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What two right computations may differ by.

    Attributes:
        score: nats per scored token, absolute.
        pooled: norm of the difference of two pooled differences, relative to the reference's.
    """

    score: float
    pooled: float


# Largest differences measured between engine and reference on random models, on the CPU: scores in
# nats / pooled differences, relative. 4 blocks: 20 families (half precision: 19, no mamba), both
# protocols, coefficients -3, 20, 400. 26 blocks, width 256: aligned, coefficients 1, 20; dense are
# gemma2, llama (its head times 1 and 4), qwen3, gpt_neox.
#
#              4 blocks           26 blocks, dense   26 blocks, mixtral
#   float32    6e-7 / 2e-6        3e-6 / 3e-6        9e-7 / 3e-6
#   bfloat16   1.2e-2 / 2.4e-2    3.9e-2 / 3.6e-2    5e-3 / 1.1e-2 (not packed)
#   float16    1.0e-3 / 4.3e-3    3.3e-3 / 6.3e-3    4.5e-2 / 5.5e-2
#
# In half precision differences grow with the size of the logits (3.9e-2 is the Llama with the
# larger head), and an expert that rounding chose moves a score as far at any precision: the limit
# is about twice the largest that was seen, that of float32 30 times. The price: at half precision
# a fault that moves scores by less than 0.1 cannot be told from rounding. With dtype float32 a new
# architecture is held to 1e-4.
TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(score=1e-4, pooled=1e-3),
    "bfloat16": Tolerance(score=0.1, pooled=0.1),
    "float16": Tolerance(score=0.1, pooled=0.1),
}


def tolerance_for(dtype: str, score: float | None = None) -> Tolerance:
    """The tolerance of a dtype, with another limit for scores where one is given.

    Raises:
        UserError: a dtype without one.
    """
    if dtype not in TOLERANCES:
        raise UserError(f"dtype must be one of {', '.join(TOLERANCES)}, got {dtype}")
    found = TOLERANCES[dtype]
    return found if score is None else replace(found, score=score)


@dataclass(frozen=True, slots=True)
class Deviation:
    """One value computed twice.

    Attributes:
        largest: largest absolute difference of entries that are finite on both sides; 0.0 where
            none is.
        num_non_finite: entries that are finite on neither side. In half precision, a large
            coefficient does that; which of infinity and NaN comes out depends on the order of
            sums, so they count as equal.
        num_one_sided: entries that are finite on one side only: never right.
    """

    largest: float
    num_non_finite: int
    num_one_sided: int

    @classmethod
    def between(cls, found: np.ndarray, wanted: np.ndarray) -> Deviation:
        """The deviation of two arrays of one shape."""
        finite = np.isfinite(found).astype(int) + np.isfinite(wanted)
        both = finite == 2
        gaps = np.abs(found[both].astype(np.float64) - wanted[both])
        return cls(
            largest=float(gaps.max()) if gaps.size else 0.0,
            num_non_finite=int((finite == 0).sum()),
            num_one_sided=int((finite == 1).sum()),
        )

    @classmethod
    def of_pooled(cls, found_D: np.ndarray, wanted_D: np.ndarray) -> Deviation:
        """Deviation of two vectors: relative to the norm of what was wanted, unless that is 0."""
        ends = np.asarray([np.isfinite(v).all() for v in (found_D, wanted_D)])
        if not ends.all():
            return cls(0.0, int(not ends.any()), int(ends.any()))
        gap, norm = np.linalg.norm(found_D - wanted_D), np.linalg.norm(wanted_D)
        return cls(float(gap / norm if norm > 0 else gap), 0, 0)


@dataclass(frozen=True, slots=True)
class RowName:
    """Which row: the example, and the cell of the grid (null in the baseline).

    Attributes:
        place: (key, value) pairs that name the group of examples.
    """

    example_id: str
    place: tuple[tuple[str, str], ...]
    layer: int | None = None
    coeff: float | None = None

    def __str__(self) -> str:
        cell = "" if self.layer is None else f"layer {self.layer}, "
        cell += "" if self.coeff is None else f"coeff {self.coeff:g}, "
        return f"{cell}example {self.example_id} ({'/'.join(value for _, value in self.place)})"


@dataclass(frozen=True, slots=True)
class AnswerName:
    """Which generated answer."""

    row_id: str

    def __str__(self) -> str:
        return f"answer {self.row_id}"


@dataclass(frozen=True, slots=True)
class Worst:
    """The row farthest from the reference, measured in its tolerance.

    Attributes:
        difference: in nats, relative for ``pooled``, a probability for ``token``; None where one
            side only is finite.
    """

    row: RowName | AnswerName
    quantity: Quantity
    difference: float | None
    tolerance: float

    @property
    def severity(self) -> float:
        """Difference in units of the tolerance; infinite where it is not a number."""
        if self.difference is None:
            return math.inf
        if self.tolerance > 0:
            return self.difference / self.tolerance
        return math.inf if self.difference > 0 else 0.0

    def __str__(self) -> str:
        what = _WORDS[self.quantity]
        if self.difference is None:
            return f"{self.row}: a {what} is finite in only one of the two passes"
        if self.quantity == "token":
            return (
                f"{self.row}: a token is {self.difference:.2g} in probability from the choice of "
                f"the plain forward pass (tolerance: {self.tolerance:g})"
            )
        unit = " (relative)" if self.quantity == "pooled" else " nats"
        return (
            f"{self.row}: {what} differs by {self.difference:.2g}{unit} from the plain forward "
            f"pass (tolerance: {self.tolerance:g})"
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """Rows that were computed both ways, and how far apart they are.

    Attributes:
        num_changed_choices: rows for which the two paths choose another candidate. Not a failure
            by itself: a tie within the tolerance may fall either way.
        num_non_finite, num_one_sided: see ``Deviation``.
        largest_pooled_difference: None where no pooled difference was compared.
        largest_kl_difference: in nats; None where no divergence was compared.
    """

    num_rows_checked: int = 0
    largest_difference: float = 0.0
    num_changed_choices: int = 0
    num_non_finite: int = 0
    num_one_sided: int = 0
    largest_pooled_difference: float | None = None
    worst: Worst | None = None
    largest_kl_difference: float | None = None

    @property
    def holds(self) -> bool:
        """Whether every row is within its tolerance; true of no rows."""
        return self.worst is None or self.worst.severity <= 1.0

    @classmethod
    def of_scores(
        cls,
        rows: Sequence[RowName],
        found: Sequence[np.ndarray],
        wanted: Sequence[np.ndarray],
        tolerance: Tolerance,
        choices: Sequence[tuple[int, int]] | None = None,
    ) -> Certificate:
        """The certificate of scores in nats, candidates in the data file's order.

        Args:
            found, wanted: [C] float64 of each row.
            choices: index that each side chooses, -1 for none; by default, the highest score.
        """
        if choices is None:
            choices = [
                (int(choose(scores)), int(choose(right)))
                for scores, right in zip(found, wanted, strict=True)
            ]
        return cls.joined(
            cls._of_row(row, Deviation.between(scores, right), one != other, tolerance)
            for row, scores, right, (one, other) in zip(rows, found, wanted, choices, strict=True)
        )

    @classmethod
    def _of_row(
        cls, row: RowName, deviation: Deviation, changed: bool, tolerance: Tolerance
    ) -> Certificate:
        return cls(
            num_rows_checked=1,
            largest_difference=deviation.largest,
            num_changed_choices=int(changed),
            num_non_finite=deviation.num_non_finite,
            num_one_sided=deviation.num_one_sided,
            worst=Worst(row, "score", _reported(deviation), tolerance.score),
        )

    @classmethod
    def of_pooled(
        cls,
        row: RowName,
        found_D: np.ndarray,
        wanted_D: np.ndarray,
        tolerance: Tolerance,
        quantity: Quantity = "pooled",
    ) -> Certificate:
        """The certificate of one row's pooled difference; it adds no row to the count.

        The same for another vector that vectors are made with, named by ``quantity``.
        """
        deviation = Deviation.of_pooled(found_D, wanted_D)
        return cls(
            num_non_finite=deviation.num_non_finite,
            num_one_sided=deviation.num_one_sided,
            largest_pooled_difference=deviation.largest,
            worst=Worst(row, quantity, _reported(deviation), tolerance.pooled),
        )

    @classmethod
    def of_kl(
        cls,
        rows: Sequence[RowName],
        found_N: np.ndarray,
        wanted_N: np.ndarray,
        tolerance: Tolerance,
    ) -> Certificate:
        """The certificate of the rows' mean divergences in nats; it adds no row to the count.

        The tolerance is that of scores for divergences up to 1 nat, and as many times that for
        larger ones: what rounding does to logits moves a divergence in proportion to its size.
        """
        return cls.joined(
            cls._of_kl(row, Deviation.between(found, wanted), tolerance.score * max(1.0, size))
            for row, found, wanted in zip(rows, found_N, wanted_N, strict=True)
            for size in [float(wanted) if np.isfinite(wanted) else 1.0]
        )

    @classmethod
    def _of_kl(cls, row: RowName, deviation: Deviation, tolerance: float) -> Certificate:
        return cls(
            num_non_finite=deviation.num_non_finite,
            num_one_sided=deviation.num_one_sided,
            largest_kl_difference=deviation.largest,
            worst=Worst(row, "kl", _reported(deviation), tolerance),
        )

    @classmethod
    def of_answer(
        cls, row: AnswerName, num_other: int, furthest: float, tolerance: float
    ) -> Certificate:
        """The certificate of one generated answer (``answer_check.AnswerCheck``).

        Args:
            num_other: tokens that the plain pass would have chosen otherwise; they count as changed
                choices.
            furthest: the largest change of a probability that would make it choose the same.
        """
        return cls(
            num_rows_checked=1,
            largest_difference=furthest,
            num_changed_choices=num_other,
            worst=Worst(row, "token", furthest, tolerance),
        )

    @classmethod
    def joined(cls, certificates: Iterable[Certificate]) -> Certificate:
        """All of them as one."""
        all_of = list(certificates)
        pooled, kl = (
            [d for d in differences if d is not None]
            for differences in (
                [c.largest_pooled_difference for c in all_of],
                [c.largest_kl_difference for c in all_of],
            )
        )
        worst = [c.worst for c in all_of if c.worst is not None]
        return cls(
            num_rows_checked=sum(c.num_rows_checked for c in all_of),
            largest_difference=max((c.largest_difference for c in all_of), default=0.0),
            num_changed_choices=sum(c.num_changed_choices for c in all_of),
            num_non_finite=sum(c.num_non_finite for c in all_of),
            num_one_sided=sum(c.num_one_sided for c in all_of),
            largest_pooled_difference=max(pooled, default=None),
            largest_kl_difference=max(kl, default=None),
            worst=max(worst, key=lambda w: w.severity, default=None),
        )


def _reported(deviation: Deviation) -> float | None:
    return None if deviation.num_one_sided else deviation.largest


def draw(seed: str, num_things: int, count: int) -> list[int]:
    """Distinct numbers below ``num_things``, at most ``count``, ascending, drawn with the seed."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    drawn = np.random.default_rng(number).choice(
        num_things, size=min(count, num_things), replace=False
    )
    return sorted(int(n) for n in drawn)
