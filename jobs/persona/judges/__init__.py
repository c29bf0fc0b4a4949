"""Judges: how much of a trait an answer shows, and how coherent it is, 0..100.

Importing this package loads no client and no model.
"""

from jobs.persona.judges.base import OUTCOMES, Judge, JudgeSettings, Outcome, Query, Verdict
from jobs.persona.judges.scoring import Answer, Judgement, Scorer, Usage
from jobs.persona.judges.spec import JudgeSpec

__all__ = [
    "OUTCOMES",
    "Answer",
    "Judge",
    "JudgeSettings",
    "JudgeSpec",
    "Judgement",
    "Outcome",
    "Query",
    "Scorer",
    "Usage",
    "Verdict",
]
