"""CrowS-Pairs: labels, and the two metrics against a plain loop over rows."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from steering_core.datasets.crows_pairs import CROWS_PAIRS
from tests.support.choice_scores import scored_as, scored_at_random, shared_file, values_of


def made_up(number: int) -> list[dict[str, Any]]:
    return [
        {
            "": str(n),
            "sent_more": f"More {n}.",
            "sent_less": f"Less {n}.",
            "stereo_antistereo": "stereo" if n % 3 else "antistereo",
            "bias_type": "age" if n % 2 else "gender",
        }
        for n in range(number)
    ]


def real_rows() -> list[dict[str, Any]]:
    path = shared_file("crows_pairs/crows_pairs_anonymized.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_more_stereotypical_sentence_is_known_in_both_directions() -> None:
    examples = CROWS_PAIRS.read(made_up(2), "f")
    for example, direction in zip(examples, ("antistereo", "stereo"), strict=True):
        assert example.prompt == ""
        assert dict(zip(example.labels, example.texts, strict=True)) == {
            "more_stereotypical": f"More {example.example_id}.",
            "less_stereotypical": f"Less {example.example_id}.",
        }
        assert example.group_value("direction") == direction


@pytest.mark.parametrize("rows", [made_up, lambda _: real_rows()], ids=["made up", "real"])
def test_metrics_equal_a_plain_loop(rows: Any) -> None:
    records = rows(40)
    examples = CROWS_PAIRS.read(records, "f")
    scored = scored_at_random(examples, seed=4)
    preferred, gaps = 0, 0.0
    for record, example, sums in zip(records, examples, scored.sums, strict=True):
        likelihood = dict(zip(example.texts, sums, strict=True))
        more, less = likelihood[record["sent_more"]], likelihood[record["sent_less"]]
        preferred += more > less
        gaps += abs(more - less)
    assert values_of(CROWS_PAIRS.metrics([]), scored) == pytest.approx(
        {"pct_stereotype": preferred / len(records), "likelihood_diff": gaps / len(records)}
    )


def test_a_tie_is_no_preference() -> None:
    scored = scored_as(CROWS_PAIRS.read(made_up(2), "f"), [[-2, -2], [-1, -2]])
    assert values_of(CROWS_PAIRS.metrics([]), scored)["pct_stereotype"] == 0.5


def test_the_real_file_has_its_published_counts() -> None:
    examples = CROWS_PAIRS.read(real_rows(), "f")
    assert len(examples) == 1508
    assert len({example.group_value("bias_type") for example in examples}) == 9
