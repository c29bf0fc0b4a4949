"""A measured number as readers see it: its label, unit and digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.page.words import MINUS, number


@dataclass(frozen=True)
class Shown:
    """A metric as readers see it.

    Attributes:
        times: what its numbers are multiplied by.
        unit, change_unit: of a value and of a change; empty for plain numbers.
    """

    key: str
    label: str
    times: float
    digits: int
    unit: str
    change_unit: str

    def text(self, value: float) -> str:
        """A value or a change, without its unit."""
        return number(self.times * value, self.digits)

    def signed(self, value: float) -> str:
        """A change with its sign, without its unit."""
        text = self.text(value)
        return f"+{text}" if text.strip("0.,") and not text.startswith(MINUS) else text

    def range(self, low: float, high: float) -> str:
        """An interval, as in ``1.2 to 3.4``."""
        return f"{self.text(low)} to {self.text(high)}"

    def change(self, value: float) -> str:
        """A change with its unit."""
        return f"{self.text(value)} {self.change_unit}".rstrip()


UNITS = {
    "share": (100.0, 1, "%", "percentage points"),
    "percent": (1.0, 1, "%", "percentage points"),
    "nats": (1.0, 3, "nats per token", "nats per token"),
    "number": (1.0, 3, "", ""),
}
"""By the unit of a metric: the other fields of ``Shown``."""


def shown_of(row: Mapping[str, Any]) -> Shown:
    """The metric of a row with columns ``metric``, ``label`` and ``unit``."""
    return Shown(row["metric"], row["label"], *UNITS[row["unit"]])
