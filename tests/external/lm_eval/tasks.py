"""The rows that both programs score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.datasets.load import load_examples
from steering_core.datasets.base import Candidate, ChoiceDataset, ChoiceExample
from steering_core.datasets.choices import CHOICES
from steering_core.datasets.crows_pairs import CROWS_PAIRS as CROWS_PAIRS_DATA
from steering_core.datasets.crows_pairs import LESS, MORE

CROWS_PAIRS = Path("crows_pairs") / "crows_pairs_anonymized.csv"
MMLU = Path("mmlu") / "mmlu-500.choices.jsonl"

CHOICE_METRICS = ("acc", "acc_norm")
PAIR_METRICS = ("pct_stereotype", "likelihood_diff")
"""CrowS-Pairs as the harness publishes it: the first candidate is the more stereotypical one."""


@dataclass(frozen=True, slots=True)
class SharedTask:
    """Rows with the metrics that both programs report of them.

    Attributes:
        dataset: whose metrics these are on our side.
        gold: label of the candidate that ``acc`` and ``acc_norm`` want.
    """

    name: str
    examples: tuple[ChoiceExample, ...]
    metrics: tuple[str, ...]
    dataset: ChoiceDataset
    gold: str


def shared_tasks(data: Path, num_rows: int) -> list[SharedTask]:
    """The first rows of each data set.

    CrowS-Pairs comes twice: its sentences differ in length, so ``acc_norm`` is more than ``acc``,
    which it is not for the letters of MMLU.
    """
    pairs, questions = (
        load_examples(str(data / file), kind.name).examples[:num_rows]
        for file, kind in ((CROWS_PAIRS, CROWS_PAIRS_DATA), (MMLU, CHOICES))
    )
    choices = _with_right_answers(pairs)
    return [
        SharedTask("crows_pairs", pairs, PAIR_METRICS, CROWS_PAIRS_DATA, gold=MORE),
        SharedTask("crows_pairs_choices", choices, CHOICE_METRICS, CHOICES, gold="correct"),
        SharedTask("mmlu", questions, CHOICE_METRICS, CHOICES, gold="correct"),
    ]


def _with_right_answers(examples: Sequence[ChoiceExample]) -> tuple[ChoiceExample, ...]:
    """Pairs whose more stereotypical sentence is called correct, which ``acc`` asks for."""
    names = {MORE: "correct", LESS: "incorrect"}
    return tuple(
        replace(e, candidates=tuple(Candidate(c.text, names[c.label]) for c in e.candidates))
        for e in examples
    )
