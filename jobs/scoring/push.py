"""How hard steering pushed: the norm of each step, relative to that of the stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.words import coefficient, count
from steering_core.vectors import Unit

LEAST, MOST = 0.02, 3.0
"""Doses outside hardly move anything, or leave little of the stream."""
_MODEST = 0.1


@dataclass(frozen=True)
class Push:
    """How hard the cells of a sweep were pushed, those of coefficient 0 left out.

    Attributes:
        smallest, largest: doses.
        num_cells: cells of which the dose is known.
        num_weak, num_strong: those below ``LEAST`` and above ``MOST``.
        modest: smallest and largest coefficient, by size, of a dose of 0.1.
    """

    smallest: float
    largest: float
    num_cells: int
    num_weak: int
    num_strong: int
    modest: tuple[float, float]

    def sentence(self) -> str:
        """One line for every result."""
        ends = list(dict.fromkeys(_rounded(end) for end in (self.smallest, self.largest)))
        return f"Steering pushed by {' to '.join(ends)} of the stream's norm."

    def warnings(self, unit: Unit) -> list[str]:
        """What is wrong with the doses, and what to do."""
        found = []
        if self.num_weak:
            found.append(
                f"In {self.num_weak:,} of {count(self.num_cells, 'cell')}, steering pushed by less "
                f"than {LEAST:g} of the stream's norm, which hardly moves anything. "
                f"{self._advice(unit)}"
            )
        if self.num_strong:
            found.append(
                f"In {self.num_strong:,} of {count(self.num_cells, 'cell')}, steering pushed by "
                f"more than {MOST:g} times the stream's norm, which leaves little of what the "
                f"model computed. {self._advice(unit)}"
            )
        return found

    def _advice(self, unit: Unit) -> str:
        if unit == "stream":
            return f"Choose steering.coeffs from {LEAST:g} to {MOST:g} by size: they are doses."
        ends = list(dict.fromkeys(coefficient(float(f"{end:.2g}")) for end in self.modest))
        return (
            f"A dose of {_MODEST:g} is a coefficient of {' to '.join(ends)} here; in a new output, "
            f"`--set steering.unit=stream --set steering.coeffs=[-{_MODEST:g},{_MODEST:g}]` pushes "
            "every layer by it."
        )


def push_of(cells: Iterable[Mapping[str, Any]]) -> Push | None:
    """How hard these rows of ``summary/cells`` were pushed; None if no dose is known.

    Tables of earlier versions have no doses.
    """
    known = [
        (row["dose"], abs(row["coeff"]))
        for row in cells
        if row["coeff"] != 0 and row.get("dose") is not None
    ]
    if not known:
        return None
    doses = np.asarray([dose for dose, _ in known])
    modest = [_MODEST * coeff / dose for dose, coeff in known if dose > 0]
    return Push(
        smallest=float(doses.min()),
        largest=float(doses.max()),
        num_cells=len(doses),
        num_weak=int((doses < LEAST).sum()),
        num_strong=int((doses > MOST).sum()),
        modest=(min(modest, default=0.0), max(modest, default=0.0)),
    )


def _rounded(dose: float) -> str:
    """Two digits, without an exponent where it reads well without."""
    return f"{dose:.2g}" if dose < 100 else f"{dose:,.0f}"
