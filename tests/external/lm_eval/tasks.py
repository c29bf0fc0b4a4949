"""The rows that both programs score.

The readers of ``steering_core.datasets`` will replace those here, which check nothing.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from steering_core.datasets.base import Candidate, ChoiceExample

CROWS_PAIRS = Path("crows_pairs") / "crows_pairs_anonymized.csv"
MMLU = Path("mmlu") / "mmlu-500.choices.jsonl"

CHOICE_METRICS = ("acc", "acc_norm")
PAIR_METRICS = ("pct_stereotype", "likelihood_diff")
"""CrowS-Pairs as the harness publishes it: the first candidate is the more stereotypical one."""


@dataclass(frozen=True, slots=True)
class SharedTask:
    """Rows with the metrics that both programs report of them.

    Attributes:
        gold: label of the candidate that ``acc`` and ``acc_norm`` want.
    """

    name: str
    examples: tuple[ChoiceExample, ...]
    metrics: tuple[str, ...]
    gold: str


def shared_tasks(data: Path, num_rows: int) -> list[SharedTask]:
    """The first rows of each data set.

    CrowS-Pairs comes twice: its sentences differ in length, so ``acc_norm`` is more than ``acc``,
    which it is not for the letters of MMLU.
    """
    pairs = crows_pairs(data / CROWS_PAIRS, num_rows)
    return [
        SharedTask("crows_pairs", pairs, PAIR_METRICS, gold="sent_more"),
        SharedTask("crows_pairs_choices", pairs, CHOICE_METRICS, gold="sent_more"),
        SharedTask("mmlu", mmlu(data / MMLU, num_rows), CHOICE_METRICS, gold="correct"),
    ]


def crows_pairs(file: Path, num_rows: int) -> tuple[ChoiceExample, ...]:
    """Pairs of sentences after an empty prompt."""
    labels = ("sent_more", "sent_less")
    with file.open(newline="", encoding="utf-8") as lines:
        return tuple(
            ChoiceExample(record[""], "", tuple(Candidate(record[k], k) for k in labels))
            for record in islice(csv.DictReader(lines), num_rows)
        )


def mmlu(file: Path, num_rows: int) -> tuple[ChoiceExample, ...]:
    """Questions with four options; the letters are scored."""
    with file.open(encoding="utf-8") as lines:
        return tuple(example(json.loads(line)) for line in islice(nonempty(lines), num_rows))


def nonempty(lines: Iterable[str]) -> Iterable[str]:
    """Lines with something in them."""
    return (line for line in lines if line.strip())


def example(record: dict[str, object]) -> ChoiceExample:
    """An example of a line of `format: choices`."""
    candidates = record["candidates"]
    assert isinstance(candidates, list)
    return ChoiceExample(
        str(record["id"]),
        str(record["prompt"]),
        tuple(Candidate(c["text"], c["label"]) for c in candidates),
    )
