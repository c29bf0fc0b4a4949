"""An estimate with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from jobs.page.words import number


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str, times: float = 1.0) -> Self | None:
        """A column of a summary's row with its interval; None if it is not a number."""
        numbers = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
        if any(number is None or number != number for number in numbers):
            return None
        return cls(*(times * number for number in numbers))

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def size(self) -> Estimate:
        """The estimate of the absolute value."""
        if self.low >= 0:
            return self
        if self.high <= 0:
            return Estimate(-self.value, -self.high, -self.low)
        return Estimate(abs(self.value), 0.0, max(-self.low, self.high))

    def compared(self, other: Estimate) -> str:
        """``larger``, ``smaller`` or, if the intervals overlap, ``unclear``."""
        if self.low > other.high:
            return "larger"
        return "smaller" if self.high < other.low else "unclear"

    def text(self, digits: int = 1) -> str:
        """The value alone."""
        return number(self.value, digits)

    def range(self, digits: int = 1) -> str:
        """The interval, as in ``1.2 to 3.4``."""
        return f"{number(self.low, digits)} to {number(self.high, digits)}"
