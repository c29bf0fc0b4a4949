"""Which questions a sweep asked to make a vector, and which to steer with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class QuestionsAsked:
    """The texts of the questions of a model and a trait, by phase."""

    contrast: frozenset[str]
    steered: frozenset[str]

    @property
    def shared(self) -> frozenset[str]:
        """Those that were asked in both phases."""
        return self.contrast & self.steered

    def compared(self) -> str:
        """Whether conditions of the two phases are of the same questions, as a sentence.

        Empty if one of the phases asked nothing.
        """
        if not self.contrast or not self.steered:
            return ""
        if self.contrast == self.steered:
            return f"All boxes are of the same {len(self.contrast):,} questions."
        return (
            f"The boxes are not of the same questions: 'asked' boxes are of the "
            f"{len(self.contrast):,} contrast questions, the others of {len(self.steered):,} "
            f"steering questions ({len(self.shared):,} in both). So compare coefficients with each "
            "other, not with the 'asked' boxes."
        )


def questions_asked(answers: pd.DataFrame) -> Mapping[tuple[str, str], QuestionsAsked]:
    """By model and trait, the questions of the answers in a summary."""
    if answers.empty:
        return {}
    found: dict[tuple[str, str], QuestionsAsked] = {}
    for (model, trait), rows in answers.groupby(["model", "trait"]):
        of_phase = {
            phase: frozenset(rows.loc[rows["phase"] == phase, "question"])
            for phase in ("contrast", "steered")
        }
        found[str(model), str(trait)] = QuestionsAsked(**of_phase)
    return found
