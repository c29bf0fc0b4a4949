"""What ``steersweep verify`` says of stored numbers that were computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jobs.console import detail, print_table, warn

Verdict = Literal["holds", "broken", "not checked"]


@dataclass(frozen=True)
class Recomputed:
    """Stored rows against the same rows computed the slow way.

    Attributes:
        name: what the rows have in common: a model, or a table.
        differences: by the name of each row; not finite if a row cannot be right at all.
        tolerance: the largest difference that is accepted.
    """

    name: str
    differences: dict[str, float]
    tolerance: float = 0.0

    @property
    def worst(self) -> str | None:
        """The row that is furthest off; None if no row was checked."""
        return max(self.differences, key=lambda row: self.differences[row], default=None)

    @property
    def largest(self) -> float:
        """The largest difference."""
        return max(self.differences.values(), default=0.0)

    @property
    def verdict(self) -> Verdict:
        """Whether the rows hold. A difference that is not a number does not."""
        if not self.differences:
            return "not checked"
        holds = all(each <= self.tolerance for each in self.differences.values())
        return "holds" if holds else "broken"


def tell(recomputed: Sequence[Recomputed]) -> dict[str, Any]:
    """Print what came of it, a row for each, and return it as plain data with ``verdict``."""
    print_table(
        "stored rows against the same rows computed one by one",
        ["rows of", "rows", "largest difference", "tolerance", "verdict"],
        [
            [
                of.name,
                f"{len(of.differences):,}",
                f"{of.largest:.2g}",
                f"{of.tolerance:g}",
                of.verdict,
            ]
            for of in recomputed
        ],
    )
    for of in recomputed:
        if of.worst is not None:
            line = f"{of.name}: {of.worst} differs by {of.differences[of.worst]:.2g}"
            (warn if of.verdict == "broken" else detail)(line)
    verdicts = {of.verdict for of in recomputed}
    return {
        "verdict": next((v for v in ("broken", "holds") if v in verdicts), "not checked"),
        "rows": [
            {
                "name": of.name,
                "verdict": of.verdict,
                "num_rows": len(of.differences),
                "largest_difference": of.largest,
                "tolerance": of.tolerance,
                "worst_row": of.worst,
            }
            for of in recomputed
        ],
    }
