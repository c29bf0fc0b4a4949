"""What resolving a choices spec decides, and what it refuses, without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.choices.resolve import ChoicesSweep, resolve
from jobs.choices.spec import ChoicesSpec
from jobs.spec import load_spec
from steersweep.errors import UserError

RECORDS = [
    {
        "id": f"q{n}",
        "group": {"topic": topic, "level": "1"},
        "cluster": f"c{n // 2}",
        "prompt": f"Question {n}?",
        "candidates": [
            {"text": " Yes", "label": "yes"},
            {"text": " No", "label": "no"},
            *([{"text": " Maybe", "label": "maybe"}] if n % 2 else []),
        ],
    }
    for n, topic in enumerate(["a/b", "a/b", "c", "c", "c", "a/b"])
]


def load(folder: Path, records: Any = RECORDS, **changes: Any) -> ChoicesSpec:
    data = folder / "data.jsonl"
    data.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    document = {
        "job": "choices",
        "models": {"tiny": "embedded:gemma2-tiny"},
        "data": {"path": str(data), **changes.pop("data", {})},
        "contrast": {"positive": "yes", "negative": ["no"]},
        "steering": {"layers": [1, 4], "coeffs": [3]},
        "output": str(folder / "out"),
        **changes,
    }
    spec = folder / "sweep.yaml"
    spec.write_text(yaml.safe_dump(document))
    return load_spec(ChoicesSpec, str(spec))


def made(folder: Path, **changes: Any) -> ChoicesSweep:
    return resolve(load(folder, **changes), "cpu")


def test_without_keys_there_is_one_fit_of_all_examples(tmp_path: Path) -> None:
    sweep = made(tmp_path)
    assert [*sweep.groups] == [("all",)]
    assert len(sweep.groups["all",][0]) == 6
    assert sweep.contrast is not None
    assert (sweep.contrast.positive, sweep.contrast.negative) == (("yes",), ("no",))
    assert sweep.protocol.pooling == "candidate"
    assert sweep.held_out_folds.keys() == {("all",)}
    # Examples of a cluster are in the same fold.
    folds = sweep.held_out_folds["all",]
    assert folds[0] == folds[1] and folds[2] == folds[3] and folds[4] == folds[5]


def test_keys_of_the_group_make_fits_and_their_values_are_quoted_in_paths(tmp_path: Path) -> None:
    sweep = made(tmp_path, contrast={"positive": "yes", "negative": "no", "by": ["topic", "level"]})
    assert [*sweep.groups] == [("a/b/1",), ("c/1",)]
    group = sweep.group("tiny", ("a/b/1",))
    assert str(group) == "tiny/a/b/1"
    assert group.folder == "model=tiny/fit=a%2Fb%2F1"


def test_what_changes_numbers_is_part_of_the_identity(tmp_path: Path) -> None:
    first = made(tmp_path).identity()
    for change in (
        {"contrast": {"positive": "no", "negative": "yes"}},
        {"contrast": {"positive": "yes", "negative": "no", "by": "topic"}},
        {"data": {"limit": 3}},
        {"data": {"frame": "cloze"}},
        {"vectors": {"pooling": "candidate_last"}},
    ):
        assert made(tmp_path, **change).identity() != first, change
    assert made(tmp_path, steering={"layers": [2], "coeffs": [3]}).identity() == first


def test_the_usual_contrast_of_a_data_set_need_not_be_said(tmp_path: Path) -> None:
    records = [
        {
            "question": f"Is {n} a number?",
            "answer_matching_behavior": " Yes",
            "answer_not_matching_behavior": " No",
        }
        for n in range(4)
    ]
    sweep = made(tmp_path, records=records, data={"format": "model_written_evals"}, contrast={})
    assert sweep.contrast is not None
    assert sweep.contrast.positive == ("matching",)
    assert sweep.resolved_spec()["contrast"]["negative"] == ["not_matching"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast": {}}, r"contrast\.positive must be set: format choices has no usual contrast"),
        ({"contrast": {"positive": "yes"}}, r"contrast\.negative must be set"),
        (
            {"contrast": {"positive": "Yes", "negative": "no"}},
            r"contrast\.positive: no candidate in .* has the label 'Yes'; there are: 'yes' \(6\), ",
        ),
        (
            {"contrast": {"positive": "maybe", "negative": "no"}},
            r"contrast\.positive: 3 of 6 examples in .* have no candidate labeled maybe \(the "
            r"first is 'q0'\)",
        ),
        (
            {"contrast": {"positive": "yes", "negative": "no", "by": "subject"}},
            r"contrast\.by: example 'q0' in .* has no group key 'subject'; it has: topic, level",
        ),
        (
            {"records": [{**RECORDS[0], "group": {"topic": "x" * 200}}]
             , "contrast": {"positive": "yes", "negative": "no", "by": "topic"}},
            r"contrast\.by: the values of example 'q0'.* cannot name a vector; .* 128 characters",
        ),
        (
            {"contrast": {"positive": ["yes", "no"], "negative": "no"}},
            r"contrast: 'no' is both positive and negative",
        ),
        ({"contrast": {"positive": "yes", "negative": "no", "bye": "topic"}}, r"contrast\.bye"),
        ({"contrast": {"positive": [], "negative": "no"}}, r"contrast\.positive"),
        ({"contrast": {"positive": True, "negative": "no"}}, r"yes and no as true and false"),
        ({"contrast": {"positive": ["yes", "yes"], "negative": "no"}}, r"yes is repeated"),
        (
            {"vectors": {"pooling": "all_positions"}},
            r"vectors\.pooling: all_positions belongs to StereoSet's published protocol",
        ),
        ({"data": {"chat_options": {"a": "b"}}}, r"must not set chat_options without chat: true"),
        ({"data": {"candidate_orders": 0}}, r"data\.candidate_orders"),
        ({"data": {"candidate_orders": 3}}, r"example q0 cannot be put into another order"),
        ({"data": {"frame": "letter"}}, r"data\.frame"),
        ({"data": {"format": "bbqs"}}, r"data\.format"),
        ({"data": {"format": "crows_pairs"}}, r"sent_more"),
        ({"data": {"fields": {"prompt": "question"}}}, r"fields\.candidates: expected the name"),
        ({"data": {"limit": 0}}, r"data\.limit"),
        ({"data": {"config": "x"}}, r"config: only data on the hub"),
        ({"steering": {"layers": [9], "coeffs": [1]}}, r"9"),
        ({"nulls": {"random": 1, "layers": [2]}}, r"nulls\.layers: 2 is not in steering\.layers"),
        (
            {"vectors": {"folds": 3, "held_out": True}},
            r"vectors\.held_out must be left out where folds is 3",
        ),
        (
            {"records": [{"text": "It rains."}], "data": {"format": "text"}, "contrast": {}},
            r"vectors\.file must be set: format text has no candidates to tell apart",
        ),
        ({"scoring": "aligned"}, r"scoring"),
        ({"protocol": "aligned"}, r"protocol"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(tmp_path, **changes)
    assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "out").exists()
