"""Records with faults: one line for each, which names record, field, value and what is expected."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

import pytest

from steering_core.datasets.registry import DATASETS
from steersweep.errors import UserError

NAN = float("nan")
REMOVED = object()

GOOD: dict[str, dict[str, Any]] = {
    "choices": {
        "id": "x1",
        "prompt": "Q",
        "candidates": [{"text": " A", "label": "yes"}, {"text": " B", "label": "no"}],
    },
    "crows_pairs": {
        "id": "x1",
        "sent_more": "a",
        "sent_less": "b",
        "stereo_antistereo": "stereo",
        "bias_type": "age",
    },
    "bbq": {
        "example_id": "x1",
        "question_index": "1",
        "question_polarity": "neg",
        "context_condition": "ambig",
        "category": "Age",
        "answer_info": {"ans0": ["x", "old"], "ans1": ["y", "nonOld"], "ans2": ["z", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["old"]},
        "context": "c",
        "question": "q",
        "ans0": "a",
        "ans1": "b",
        "ans2": "c",
        "label": 2,
    },
    "model_written_evals": {
        "id": "x1",
        "question": "Q\n (A) x\n (B) y",
        "answer_matching_behavior": " (A)",
        "answer_not_matching_behavior": " (B)",
    },
    "winogender": {
        "sentid": "nurse.patient.1.male.txt",
        "sentence": "The nurse told the patient that his blood was drawn.",
    },
    "stereoset": {
        "id": "x1",
        "split": "intersentence",
        "target": "t",
        "bias_type": "race",
        "context": "c",
        "sentences": [
            {"sentence": s, "gold_label": s} for s in ("stereotype", "anti-stereotype", "unrelated")
        ],
    },
    "text": {"id": "x1", "text": "It rains."},
}


def candidates(*texts: Any, label: Any = "yes") -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text in texts]


@dataclass(frozen=True)
class Case:
    """A good record with some fields replaced, and what the message must say."""

    name: str
    data: str
    changes: dict[str, Any]
    says: str


CASES = [
    Case("empty label", "choices", {"candidates": candidates(" A", " B", label="")},
         "(id x1): label of candidate 1: expected text that is not empty, got ''"),
    Case("label is a number", "choices", {"candidates": candidates(" A", " B", label=1)},
         "label of candidate 1: expected text, got 1"),
    Case("one candidate", "choices", {"candidates": candidates(" A")},
         "candidates: got 1, expected 2 to 26"),
    Case("no candidate", "choices", {"candidates": []}, "candidates: got 0, expected 2 to 26"),
    Case("27 candidates", "choices",
         {"candidates": candidates(*f"{string.ascii_uppercase}x")},
         "candidates: got 27, expected 2 to 26"),
    Case("empty text", "choices", {"candidates": candidates(" A", "")},
         "text of candidate 2: expected text that is not empty, got ''"),
    Case("blank text", "choices", {"candidates": candidates(" A", " \n ")},
         r"text of candidate 2: expected text that is not empty, got ' \n '"),
    Case("same texts", "choices", {"candidates": candidates(" A", " B", " A")},
         "candidates 1 and 3 are both ' A'; expected different texts"),
    Case("text is a number", "choices", {"candidates": candidates(" A", 4)},
         "text of candidate 2: expected text, got 4"),
    Case("text is NaN", "choices", {"candidates": candidates(" A", NAN)},
         "text of candidate 2: expected text, got NaN"),
    Case("text is null", "choices", {"candidates": candidates(" A", None)},
         "text of candidate 2: expected text, got nothing"),
    Case("lone surrogate", "choices", {"candidates": candidates(" A", "x\ud800")},
         r"text of candidate 2: holds a lone surrogate, which is not valid Unicode text, "
         r"got 'x\ud800'"),
    Case("NUL", "choices", {"prompt": "a\0b"},
         r"prompt: holds a NUL character, got 'a\x00b'"),
    Case("prompt is missing", "choices", {"prompt": REMOVED},
         "prompt: is missing; the record has id, candidates"),
    Case("prompt is NaN", "choices", {"prompt": NAN}, "prompt: expected text, got NaN"),
    Case("candidates are text", "choices", {"candidates": "A, B"},
         "candidates: expected a list, got 'A, B'"),
    Case("candidate is text", "choices", {"candidates": [" A", " B"]},
         "candidate 1: expected an object with text and label, got ' A'"),
    Case("unknown field", "choices", {"clutser": "x"},
         "clutser: unknown field; expected id, group, cluster, prompt, candidates"),
    Case("group is text", "choices", {"group": "gender"},
         "group: expected an object, got 'gender'"),
    Case("group's value is a list", "choices", {"group": {"topic": [1]}},
         r"group.topic: expected text, got [1]"),
    Case("group's value is empty", "choices", {"group": {"topic": ""}},
         "group.topic: expected text that is not empty"),
    Case("id is a fraction", "choices", {"id": 1.5}, "id: expected text, got 1.5"),
    Case("id is true", "choices", {"id": True}, "id: expected text, got True"),
    Case("cluster is empty", "choices", {"cluster": " "}, "cluster: expected text that is not"),
    Case("sentence is missing", "crows_pairs", {"sent_less": REMOVED}, "sent_less: is missing"),
    Case("same sentences", "crows_pairs", {"sent_less": "a"}, "candidates 1 and 2 are both 'a'"),
    Case("unknown direction", "crows_pairs", {"stereo_antistereo": "anti"},
         "stereo_antistereo: expected stereo or antistereo, got 'anti'"),
    Case("label out of range", "bbq", {"label": 3}, "label: expected 0, 1 or 2, got 3"),
    Case("label is true", "bbq", {"label": True}, "label: expected 0, 1 or 2, got True"),
    Case("label against the condition", "bbq", {"label": 0},
         "label: expected unknown in a context_condition ambig, got target"),
    Case("unknown condition", "bbq", {"context_condition": "ambiguous"},
         "context_condition: expected ambig or disambig, got 'ambiguous'"),
    Case("unknown polarity", "bbq", {"question_polarity": "pos"},
         "question_polarity: expected neg or nonneg, got 'pos'"),
    Case("no info", "bbq", {"answer_info": {"ans0": ["x", "old"]}},
         "answer_info.ans1: expected a list of a name and a group, got nothing"),
    Case("nobody unknown", "bbq",
         {"answer_info": {f"ans{n}": ["x", "old"] for n in range(3)}},
         "answer_info: expected one answer of the group 'unknown', got 0"),
    Case("no groups", "bbq", {"additional_metadata": {"stereotyped_groups": []}},
         "stereotyped_groups: expected a group, got an empty list"),
    Case("metadata is text", "bbq", {"additional_metadata": "old"},
         "additional_metadata: expected an object, got 'old'"),
    Case("no index", "bbq", {"question_index": REMOVED}, "question_index: is missing"),
    Case("same answers", "model_written_evals", {"answer_matching_behavior": "(B)"},
         r"both answers are '(B)'; expected different ones"),
    Case("answer not listed", "model_written_evals", {"answer_matching_behavior": " (C)"},
         r"answer (C): expected one of the choices in the question, (A) to (B)"),
    Case("odd sentid", "winogender", {"sentid": "nurse"},
         "sentid: expected <occupation>.<participant>.<0 or 1>.<gender>.txt, got 'nurse'"),
    Case("two pronouns", "winogender", {"sentence": "He told her."},
         "sentence: expected one pronoun, got He, her in 'He told her.'"),
    Case("label of a pronoun", "winogender",
         {"pronoun": "he", "occupation": "a", "participant": "b", "gender": "male", "label": 2},
         "label: expected 0 or 1, got 2"),
    Case("unknown split", "stereoset", {"split": "dev"},
         "split: expected intersentence or intrasentence, got 'dev'"),
    Case("text is missing", "text", {"text": REMOVED}, "text: is missing; the record has id"),
    Case("text is blank", "text", {"text": " "}, "text: expected text that is not empty, got ' '"),
    Case("text is a list", "text", {"text": ["a"]}, "text: expected text, got ['a']"),
    Case("text with a prompt", "text", {"prompt": "Q"},
         "prompt: unknown field; expected id, group, cluster, text"),
    Case("two sentences", "stereoset", {"sentences": []}, "needs exactly 3 sentences, got 0"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_has_one_line_and_the_shape_follows(case: Case) -> None:
    dataset = DATASETS[case.data]
    changed = GOOD[case.data] | case.changes
    record = {key: value for key, value in changed.items() if value is not REMOVED}
    with pytest.raises(UserError) as caught:
        dataset.read([record], "data.jsonl")
    fault, shape = caught.value.lines
    assert case.says in fault
    assert fault.startswith("data.jsonl: record 1")
    assert shape == f"a record looks like {dataset.shape}"


@pytest.mark.parametrize("name", GOOD)
def test_the_good_records_are_good(name: str) -> None:
    assert len(DATASETS[name].read([GOOD[name]], "f")) == 1


@pytest.mark.parametrize("name", GOOD)
def test_an_id_occurs_once(name: str) -> None:
    with pytest.raises(UserError, match=r"record 3.*: the id also belongs to record 1"):
        DATASETS[name].read([GOOD[name], *([GOOD[name]] * 2)], "f")


@pytest.mark.parametrize("name", GOOD)
def test_a_record_that_is_no_object_and_no_records(name: str) -> None:
    with pytest.raises(UserError, match="f: record 2: expected an object, got 'x'"):
        DATASETS[name].read([GOOD[name], "x"], "f")  # type: ignore[list-item]
    with pytest.raises(UserError, match="f: holds no record; a record looks like"):
        DATASETS[name].read([], "f")


def test_ten_faults_are_listed() -> None:
    bad = [GOOD["choices"] | {"id": str(n), "prompt": None} for n in range(13)]
    with pytest.raises(UserError) as caught:
        DATASETS["choices"].read(bad, "f")
    lines = caught.value.lines
    assert len(lines) == 12
    assert lines[9].startswith("f: record 10 (id 9): prompt: expected text, got nothing")
    assert lines[10] == "... and 3 more"
