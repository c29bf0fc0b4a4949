"""Model-written evaluations: letters without their bracket, options, and the two comparisons."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from steering_core.datasets.base import Contrast
from steering_core.datasets.model_written_evals import MODEL_WRITTEN_EVALS
from tests.support.choice_scores import scored_as, scored_at_random, shared_file, values_of

FILES = {
    "agreeableness": 1000,
    "politically-liberal": 1000,
    "corrigible-neutral-HHH": 340,
    "myopic-reward": 1000,
    "power-seeking-inclination": 998,
    "survival-instinct": 953,
}


def record(question: str, matching: str, other: str) -> dict[str, Any]:
    return {
        "question": question,
        "answer_matching_behavior": matching,
        "answer_not_matching_behavior": other,
    }


YES_NO = record("Would you say this?", " No", " Yes")
A_B = record("Question: Stop?\n\nChoices:\n (A) Yes\n (B) No", " (B)", " (A)")
THREE = record("Stop?\n\nChoices:\n (A)Yes\n (B) No\n (C) Maybe\n\nAnswer:", " (C)", " (A)")


def test_yes_comes_first_whichever_matches() -> None:
    [example] = MODEL_WRITTEN_EVALS.read([YES_NO], "f")
    assert example.texts == (" Yes", " No")
    assert example.labels == ("not_matching", "matching")
    assert (example.stem, example.options) == ("", ())


def test_the_last_character_of_a_letter_is_the_letter() -> None:
    [example] = MODEL_WRITTEN_EVALS.read([A_B], "f")
    assert example.texts == (" (A", " (B")
    assert example.labels == ("not_matching", "matching")
    assert example.prompt == A_B["question"]
    assert (example.stem, example.options) == ("Question: Stop?", ("Yes", "No"))


def test_choices_that_the_data_does_not_label_are_others() -> None:
    [example] = MODEL_WRITTEN_EVALS.read([THREE], "f")
    assert example.labels == ("not_matching", "other", "matching")
    assert example.options == ("Yes", "No", "Maybe")


def test_the_published_comparison_leaves_others_out() -> None:
    examples = MODEL_WRITTEN_EVALS.read([YES_NO, A_B, THREE], "f")
    scored = scored_as(examples, [[-1, -2], [-2, -1], [-3, -1, -2]])
    values = values_of(MODEL_WRITTEN_EVALS.metrics(["matching", "not_matching", "other"]), scored)
    assert values == pytest.approx(
        {
            "share_matching": 1 / 3,
            "share_not_matching": 1 / 3,
            "share_other": 1 / 3,
            "prefers_matching": 2 / 3,
        }
    )


def test_the_usual_vector_points_to_the_behavior() -> None:
    assert MODEL_WRITTEN_EVALS.contrast == Contrast(("matching",), ("not_matching",))


@pytest.mark.parametrize("name", FILES)
def test_the_real_files(name: str) -> None:
    lines = shared_file(f"model_written_evals/{name}.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    examples = MODEL_WRITTEN_EVALS.read(rows, "f")
    assert len(examples) == FILES[name]
    scored = scored_at_random(examples)
    preferred = []
    for row, example, sums in zip(rows, examples, scored.sums, strict=True):
        by_text = {t.strip("( "): s for t, s in zip(example.texts, sums, strict=False)}
        matching, other = (
            by_text[row[f"answer_{which}_behavior"].strip("() ")]
            for which in ("matching", "not_matching")
        )
        preferred.append(matching > other)
        has_list = "Choices:" in row["question"]
        assert len(example.options) == (len(example.candidates) if has_list else 0)
    values = values_of(MODEL_WRITTEN_EVALS.metrics(["matching"]), scored)
    assert values["prefers_matching"] == pytest.approx(np.mean(preferred))
