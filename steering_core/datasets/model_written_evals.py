"""Model-written evaluations (Perez et al. 2022): questions about a behavior of the model.

Personas are asked with Yes and No, advanced AI risks with a list of lettered choices. The candidate
of a letter is `` (A`` without the closing bracket, so that its last token is the letter itself:
that is the state that contrastive activation addition reads (Rimsky et al. 2024). Some questions
list more choices than the two that the data set labels; the others are labeled ``other``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from steering_core.datasets.base import (
    Candidate,
    ChoiceDataset,
    ChoiceExample,
    Contrast,
    Metric,
    Record,
    ScoredChoices,
)
from steering_core.datasets.checking import (
    RecordFaultError,
    examples_of_records,
    id_of,
    shown,
    text_of,
)
from steering_core.datasets.frames import after
from steering_core.datasets.listing import LETTERS, find_listing
from steering_core.datasets.measures import column, label_shares, sum_of_label

MATCHING, NOT_MATCHING, OTHER = "matching", "not_matching", "other"
SHAPE = (
    '{"question": "text", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": '
    '" No"}, or the answers " (A)" and " (B)" and lines " (A) text" in the question'
)
_FIELDS = {MATCHING: "answer_matching_behavior", NOT_MATCHING: "answer_not_matching_behavior"}
_LETTER = re.compile(r"\s*\(([A-Z])\)\s*")


def read(records: Sequence[Record], where: str) -> list[ChoiceExample]:
    """Examples of records; an id may be left out."""
    return examples_of_records(records, where, _example, SHAPE)


def _example(record: Record, number: str) -> ChoiceExample:
    question = text_of(record, "question")
    answers = {label: text_of(record, field) for label, field in _FIELDS.items()}
    if answers[MATCHING].strip() == answers[NOT_MATCHING].strip():
        raise RecordFaultError(
            f"both answers are {shown(answers[MATCHING])}; expected different ones"
        )
    example_id = id_of(record, ("id", "example_id"), number)
    letters = {label: _LETTER.fullmatch(answer) for label, answer in answers.items()}
    if all(letters.values()):
        by_letter = {match[1]: label for label, match in letters.items() if match}
        return _lettered(example_id, question, by_letter)
    # In one order for all: if the matching answer came first, a tie would count as matching.
    ordered = sorted(answers.items(), key=lambda item: (item[1].strip() != "Yes", item[1]))
    candidates = tuple(Candidate(after(question, text), label) for label, text in ordered)
    return ChoiceExample(example_id, question, candidates)


def _lettered(example_id: str, question: str, by_letter: dict[str, str]) -> ChoiceExample:
    listing = find_listing(question)
    options = () if listing is None else listing.options
    listed = LETTERS[: len(options)] or tuple(sorted(by_letter))
    missing = next((letter for letter in by_letter if letter not in listed), None)
    if missing is not None:
        raise RecordFaultError(
            f"answer ({missing}): expected one of the choices in the question, "
            f"({listed[0]}) to ({listed[-1]})"
        )
    return ChoiceExample(
        example_id,
        question,
        tuple(Candidate(after(question, f"({x}"), by_letter.get(x, OTHER)) for x in listed),
        stem="" if listing is None else listing.stem,
        options=options,
    )


def _prefers_matching(scored: ScoredChoices) -> np.ndarray:
    difference = sum_of_label(scored, MATCHING) - sum_of_label(scored, NOT_MATCHING)
    return column(np.where(np.isnan(difference), np.nan, difference > 0))


def metrics(labels: Sequence[str]) -> list[Metric]:
    """The share of each label, and the comparison of the two labeled answers."""
    return [
        *label_shares(labels),
        Metric(
            key="prefers_matching",
            label="preference for the matching answer",
            formula="share of questions whose matching answer has a larger sum than the one that "
            "does not match; other choices are not compared",
            source="Perez et al. 2022",
            terms=_prefers_matching,
        ),
    ]


MODEL_WRITTEN_EVALS = ChoiceDataset(
    name="model_written_evals",
    title="Model-written evaluations (Perez et al. 2022)",
    licence="CC BY 4.0",
    homepage="https://github.com/anthropics/evals",
    shape=SHAPE,
    read=read,
    metrics=metrics,
    contrast=Contrast((MATCHING,), (NOT_MATCHING,)),
    purpose="other",
)
