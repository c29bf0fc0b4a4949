"""Columns of common layouts become records of the general format; others get a line."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.datasets.fields import field_mapping, mapped_records
from steering_core.datasets.choices import CHOICES
from steersweep.errors import UserError

LIST = {"prompt": "question", "candidates": "choices", "correct": "answer"}
MMLU = {"question": "Why?", "choices": ["So", "Because"], "answer": 1, "subject": "law"}
ARC = {
    "id": "Mercury_1",
    "question": "Why?",
    "choices": {"text": ["So", "Because"], "label": ["1", "2"]},
    "answer": "2",
}
COLUMNS = {"prompt": "q", "candidates": ["ans0", "ans1", "ans2"], "correct": "label"}
BBQ = {"q": "Who?", "ans0": "He", "ans1": "She", "ans2": "Unknown", "label": 1}


def mapped(record: dict[str, Any], fields: dict[str, Any]) -> Any:
    records = mapped_records([record], field_mapping(fields), "f")
    return CHOICES.read(records, "f")[0]


@pytest.mark.parametrize("answer", [1, "1", "B", "Because", " Because "])
def test_a_list_with_the_right_one_by_index_letter_or_text(answer: Any) -> None:
    example = mapped(MMLU | {"answer": answer}, LIST | {"group": {"topic": "subject"}})
    assert example.prompt == "Why?"
    assert example.texts == (" So", " Because")
    assert example.labels == ("incorrect", "correct")
    assert example.group == (("topic", "law"),)


def test_an_object_of_texts_and_labels() -> None:
    example = mapped(ARC, LIST | {"id": "id"})
    assert example.example_id == "Mercury_1"
    assert example.labels == ("incorrect", "correct")
    assert mapped(ARC | {"answer": 1}, LIST).labels == ("correct", "incorrect")


def test_a_column_for_each_candidate() -> None:
    example = mapped(BBQ, COLUMNS | {"cluster": "ans2"})
    assert example.texts == (" He", " She", " Unknown")
    assert example.labels == ("incorrect", "correct", "incorrect")
    assert example.cluster == "Unknown"
    assert mapped(BBQ | {"ans2": None}, COLUMNS).texts == (" He", " She")


def test_without_a_right_one_the_columns_are_the_labels() -> None:
    example = mapped({"more": "x", "less": "y"}, {"candidates": ["more", "less"]})
    assert (example.prompt, example.texts, example.labels) == ("", ("x", "y"), ("more", "less"))


def test_text_that_has_its_space_keeps_it() -> None:
    record = MMLU | {"choices": [" So", "\nBecause"]}
    assert mapped(record, LIST).texts == (" So", "\nBecause")
    assert mapped(MMLU | {"question": "Why? "}, LIST).texts == ("So", "Because")


BAD_MAPPINGS: list[tuple[dict[str, Any], str]] = [
    ({"promt": "q"}, "fields: unknown key promt; did you mean prompt?"),
    ({"zzz": "q"}, "fields: unknown key zzz; it has prompt, candidates, correct"),
    ({}, "fields.candidates: expected the name of a column, or a list of names, got nothing"),
    ({"candidates": []}, "fields.candidates: expected the name of a column"),
    ({"candidates": [1, 2]}, "fields.candidates: expected the name of a column"),
    ({"candidates": "choices"}, "fields.correct is required"),
    (LIST | {"prompt": 3}, "fields.prompt: expected the name of a column, got 3"),
    (LIST | {"group": "topic"}, "fields.group: expected keys with their columns, got 'topic'"),
    (LIST | {"group": {"t": 1}}, "fields.group.t: expected the name of a column, got 1"),
]


@pytest.mark.parametrize(("fields", "says"), BAD_MAPPINGS)
def test_a_mapping_that_is_none(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        field_mapping(fields)
    assert says in str(caught.value)


BAD_ROWS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (MMLU, LIST | {"prompt": "quesion"},
     "f: fields.prompt: the data has no column 'quesion'; did you mean question?"),
    (MMLU, LIST | {"group": {"t": "topic9"}}, "f: fields.group.t: the data has no column 'topic9'"),
    (MMLU | {"answer": 2}, LIST, "record 1: answer: expected the right candidate's index (0 to 1)"),
    (MMLU | {"answer": True}, LIST, "letter or text, got True"),
    (MMLU | {"answer": "C"}, LIST, "letter or text, got 'C'"),
    (MMLU | {"answer": float("nan")}, LIST, "letter or text, got NaN"),
    (MMLU | {"choices": "So"}, LIST, "choices: expected a list of texts, or an object"),
    (MMLU | {"choices": ["So", 2]}, LIST, "choices[1]: expected text, got 2"),
    (MMLU | {"choices": {"text": ["a"], "label": []}}, LIST,
     "choices: expected lists text and label of the same length"),
    (MMLU | {"question": None}, LIST, "question: expected text, got nothing"),
    (BBQ | {"ans1": float("nan")}, COLUMNS, "ans1: expected text, got NaN"),
    (ARC | {"id": 2.5}, LIST | {"id": "id"}, "record 1 (id 2.5): id: expected text, got 2.5"),
    (MMLU | {"subject": None}, LIST | {"group": {"t": "subject"}},
     "subject: expected text, got nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "fields", "says"), BAD_ROWS)
def test_values_that_do_not_fit(record: dict[str, Any], fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        mapped_records([record], field_mapping(fields), "f")
    assert says in str(caught.value)
