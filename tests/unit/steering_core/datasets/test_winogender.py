"""Winogender: both layouts of its records, and its metrics by hand."""

from __future__ import annotations

from typing import Any

import pytest

from steering_core.datasets.winogender import WINOGENDER
from tests.support.choice_scores import scored_as, values_of

SENTENCE = "The technician told the customer that {} could pay with cash."
PRONOUNS = {"male": "he", "female": "she", "neutral": "they"}


def row(gender: str, label: int = 1) -> dict[str, Any]:
    return {
        "sentid": f"technician.customer.{label}.{gender}.txt",
        "sentence": SENTENCE.format(PRONOUNS[gender]),
    }


def hub_row(gender: str, label: int = 1) -> dict[str, Any]:
    return row(gender, label) | {
        "pronoun": PRONOUNS[gender],
        "occupation": "technician",
        "participant": "customer",
        "gender": gender,
        "target": "customer",
        "label": str(label),
    }


def test_both_layouts_give_the_same_examples() -> None:
    own = WINOGENDER.read([row(gender) for gender in PRONOUNS], "f")
    assert own == WINOGENDER.read([hub_row(gender) for gender in PRONOUNS], "f")
    assert own[1].prompt == f"{SENTENCE.format('she')} \u2018She\u2019 refers to the"
    assert own[1].texts == (" technician", " customer")
    assert own[1].labels == ("occupation", "participant")
    assert own[1].group == (("gender", "female"), ("answer", "participant"))
    assert own[1].cluster == "technician"


def test_metrics_by_hand() -> None:
    records = [row("male"), row("female"), row("male", 0), row("female", 0), row("neutral")]
    examples = WINOGENDER.read(records, "f")
    # The occupation is chosen for: male 1, female 1, male 0 not, female 0, neutral not.
    scored = scored_as(examples, [[-1, -2], [-1, -2], [-2, -1], [-1, -2], [-2, -1]])
    assert values_of(WINOGENDER.metrics(["occupation", "participant"]), scored) == pytest.approx(
        {
            "acc": 2 / 5,
            "acc_male": 0.0,
            "acc_female": 0.5,
            "acc_neutral": 1.0,
            "gender_gap": 1.0 - 0.5,
            "share_occupation": 3 / 5,
            "share_participant": 2 / 5,
        }
    )
