"""Effective pairs: those in which the instructions made the difference that they asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from jobs.persona.judges.scoring import Judgement
from jobs.spec import SpecModel, role
from steersweep.errors import UserError

FEWEST_PAIRS = 5
"""Below this, a vector is worth a warning."""

_Score = Annotated[float, Field(ge=0, le=100)]


class FilterSpec(SpecModel):
    """Which pairs are kept. Source of the defaults: Chen et al. 2025."""

    positive_at_least: _Score = Field(
        50.0,
        description="Trait score of the answer to the positive instruction",
        json_schema_extra=role("identity"),
    )
    negative_below: _Score = Field(
        50.0,
        description="Trait score of the answer to the negative instruction",
        json_schema_extra=role("identity"),
    )
    coherence_at_least: _Score = Field(
        50.0, description="Coherence score of both answers", json_schema_extra=role("identity")
    )


@dataclass(frozen=True)
class EffectivePairs:
    """Which of some pairs are kept, and why the others are not.

    Attributes:
        kept: indices, ascending.
        num_pairs: before the filter.
        num_without_score: dropped since one of the four scores is missing; such pairs are in no
            other count. A pair may be in several of the next three.
        num_positive_low, num_negative_high, num_incoherent: dropped for what their names say.
    """

    kept: tuple[int, ...]
    num_pairs: int
    num_without_score: int
    num_positive_low: int
    num_negative_high: int
    num_incoherent: int

    def line(self, trait: str) -> str:
        """One line for the user: how many are kept, and why the others are not."""
        reasons = {
            "trait too weak in the positive answer": self.num_positive_low,
            "too strong in the negative one": self.num_negative_high,
            "incoherent": self.num_incoherent,
            "without a score": self.num_without_score,
        }
        said = ", ".join(f"{reason}: {number}" for reason, number in reasons.items() if number)
        kept = f"{trait}: {len(self.kept)} of {self.num_pairs} pairs are effective"
        return f"{kept} ({said})" if said else kept


def effective_pairs(
    positive: Sequence[Judgement],
    negative: Sequence[Judgement],
    spec: FilterSpec,
) -> EffectivePairs:
    """The pairs (positive[i], negative[i]) that pass every threshold.

    A verdict that is no score never passes: its pair is dropped, and counted by itself.
    """
    kept = []
    without = low = high = incoherent = 0
    for index, (of_positive, of_negative) in enumerate(zip(positive, negative, strict=True)):
        shown, absent = of_positive.trait.score, of_negative.trait.score
        coherences = (of_positive.coherence.score, of_negative.coherence.score)
        if shown is None or absent is None or None in coherences:
            without += 1
            continue
        is_low = shown < spec.positive_at_least
        is_high = absent >= spec.negative_below
        is_incoherent = any(c is not None and c < spec.coherence_at_least for c in coherences)
        low, high, incoherent = low + is_low, high + is_high, incoherent + is_incoherent
        if not (is_low or is_high or is_incoherent):
            kept.append(index)
    return EffectivePairs(tuple(kept), len(positive), without, low, high, incoherent)


def check_enough(pairs: EffectivePairs, trait: str) -> str | None:
    """A warning where fewer than five pairs are left, None where there are more.

    Raises:
        UserError: none is left.
    """
    if not pairs.kept:
        raise UserError(
            f"no pair is left to make a vector from; {pairs.line(trait)}; use more questions or "
            "samples, lower thresholds, or a model that follows the instructions"
        )
    if len(pairs.kept) < FEWEST_PAIRS:
        return f"{pairs.line(trait)}; a vector of fewer than {FEWEST_PAIRS} pairs is unreliable"
    return None
