"""Answers to the same questions over coefficients, for a reader to compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from jobs.page.words import coefficient, counted
from jobs.persona.page.finding import strongest
from jobs.persona.summary import PersonaSummary

_MOST_QUESTIONS = 5
_MOST_CHARACTERS = 600


@dataclass(frozen=True)
class Answer:
    """An answer with its coefficient and scores."""

    coeff: str
    scores: str
    text: str


@dataclass(frozen=True)
class Compared:
    """Questions of a model and a trait, each with its answers in the order of coefficients."""

    title: str
    questions: Sequence[tuple[str, Sequence[Answer]]]


def compared(summary: PersonaSummary) -> Iterator[Compared]:
    """The first answers to the first questions, where the trait is strongest."""
    if summary.steered.empty:
        return
    answers = summary.answers[summary.answers["phase"] == "steered"]
    for (model, trait), rows in summary.steered.groupby(["model", "trait"]):
        best = strongest(rows)
        best = rows.iloc[0] if best is None else best
        # Unsteered answers have no layer; earlier versions stored the same ones for each layer.
        is_here = (answers["layer"] == best["layer"]) | (answers["coeff"] == 0)
        at = answers[
            (answers["model"] == model)
            & (answers["trait"] == trait)
            & is_here
            & ((answers["positions"] == best["positions"]) | (answers["coeff"] == 0))
            & (answers["rollout"] == 0)
        ]
        questions = [
            (_shortened(str(of["question"].iloc[0])), _answers(of))
            for _, of in list(at.groupby("question_index"))[:_MOST_QUESTIONS]
        ]
        num = at["question_index"].nunique()
        shown = f"the first {_MOST_QUESTIONS} of " if num > _MOST_QUESTIONS else ""
        yield Compared(
            f"{model}, {trait}: layer {best['layer']}, positions {best['positions']} "
            f"({shown}{counted(num, 'question')})",
            questions,
        )


def _answers(rows: pd.DataFrame) -> list[Answer]:
    first = rows.drop_duplicates("coeff").sort_values("coeff")
    return [
        Answer(coefficient(row["coeff"]), _scores(row), _shortened(row["answer"]))
        for _, row in first.iterrows()
    ]


def _scores(row: pd.Series) -> str:
    scores = [
        f"{name} {row[column]:.0f}"
        for name, column in (("trait", "trait_score"), ("coherence", "coherence"))
        if pd.notna(row[column])
    ]
    return ", ".join(scores) or "no score"


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"
