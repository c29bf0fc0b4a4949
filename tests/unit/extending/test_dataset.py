"""A new data set in one file: its records, its labels and its metric."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from steering_core.datasets.base import (
    Candidate,
    ChoiceDataset,
    ChoiceExample,
    Contrast,
    Metric,
    Record,
)
from steering_core.datasets.checking import examples_of_records, name_of, text_of
from steering_core.datasets.measures import choices, chose, column, label_shares
from steersweep.errors import UserError
from tests.support.choice_scores import scored_as, values_of

SHAPE = '{"sentence": "It was", "kind": "fine", "rude": "bad"}'


def read_one(record: Record, number: str) -> ChoiceExample:
    return ChoiceExample(
        example_id=name_of(record.get("id", number), "id"),
        prompt=text_of(record, "sentence"),
        candidates=tuple(Candidate(f" {text_of(record, w)}", w) for w in ("kind", "rude")),
        group=(("topic", text_of(record, "topic")),),
    )


def metrics(labels: Sequence[str]) -> list[Metric]:
    return [
        Metric(
            key="politeness",
            label="politeness",
            formula="share of kind choices minus share of rude ones",
            source="this test",
            terms=lambda scored: column(2 * chose(scored, choices(scored), "kind") - 1),
            better="higher",
        ),
        *label_shares(labels),
    ]


TOY = ChoiceDataset(
    name="toy",
    title="Toy manners",
    licence="CC0",
    homepage="https://example.org",
    shape=SHAPE,
    read=lambda records, where: examples_of_records(records, where, read_one, SHAPE),
    metrics=metrics,
    contrast=Contrast(("kind",), ("rude",), by=("topic",)),
)


def record(topic: str) -> dict[str, str]:
    return {"sentence": "It was", "kind": "fine", "rude": "bad", "topic": topic}


def test_a_toy_data_set() -> None:
    examples = TOY.read([record(t) for t in "aabb"], "toy.jsonl")
    scored = scored_as(examples, [[-1, -2], [-1, -2], [-1, -2], [-2, -1]])
    values = values_of(TOY.metrics(["kind", "rude"]), scored)
    assert values == {"politeness": 0.5, "share_kind": 0.75, "share_rude": 0.25}
    assert scored.in_group("topic", "b").tolist() == [False, False, True, True]


def test_its_faults_are_shown_with_its_shape() -> None:
    with pytest.raises(UserError) as caught:
        TOY.read([record("a"), record("a") | {"kind": ""}], "toy.jsonl")
    assert str(caught.value).startswith("toy.jsonl: record 2: kind: expected text that is not")
    assert str(caught.value).endswith(f"a record looks like {SHAPE}")
