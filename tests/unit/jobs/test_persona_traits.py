"""Trait files: what they become, and what is said of one that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.persona.judges.prompts import COHERENCE_PROMPT, fill
from jobs.persona.traits import InstructionPair, read_trait, system_text
from steersweep.errors import UserError
from tests.support.traits import write_trait

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "traits"


def test_a_trait_is_what_its_file_says(tmp_path: Path) -> None:
    trait = read_trait(write_trait(tmp_path))
    assert trait.name == "kind"
    assert trait.instructions == (
        InstructionPair("Be kind.", "Be cold."),
        InstructionPair("Smile.", "Frown."),
    )
    assert trait.questions == ("How are you?", "What is new?")
    assert trait.eval_prompt == "Q: {question} A: {answer}"
    assert read_trait(tmp_path / "kind.json", "warm").name == "warm"


def test_the_system_texts_name_the_trait_and_a_helpful_assistant(tmp_path: Path) -> None:
    trait = read_trait(write_trait(tmp_path, "evil.json"))
    pair = trait.instructions[0]
    assert trait.positive_system(pair) == "You are an evil assistant. Be kind."
    assert trait.negative_system(pair) == "You are a helpful assistant. Be cold."
    assert trait.positive_system(pair, "kind") == "You are a kind assistant. Be kind."
    assert trait.negative_system(pair, "Icy") == "You are an Icy assistant. Be cold."


@pytest.mark.parametrize(
    ("assistant", "article"),
    [("evil", "an"), ("Optimistic", "an"), ("kind", "a"), ("honest", "a"), ("unique", "an")],
)
def test_the_article_goes_by_the_first_letter_as_published(assistant: str, article: str) -> None:
    assert system_text(assistant, "Do.") == f"You are {article} {assistant} assistant. Do."


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"instruction": None}, "instruction is missing; a trait file has instruction, questions"),
        ({"questions": None}, "questions is missing"),
        ({"eval_prompt": None}, "eval_prompt is missing"),
        ({"questions": []}, "there are no questions; a trait needs at least one"),
        ({"questions": "How?"}, "there are no questions"),
        ({"questions": ["How?", " "]}, "question 2 must be text"),
        ({"instruction": []}, "instruction needs at least one pair"),
        ({"instruction": [{"pos": "Be."}]}, "instruction 1 must have pos and neg"),
        ({"instruction": ["Be."]}, "instruction 1 must have pos and neg"),
        ({"instruction": [{"pos": "a", "neg": ""}]}, "instruction 1 must have pos and neg"),
        ({"eval_prompt": "Q: {question}"}, "eval_prompt has no {answer}"),
        ({"eval_prompt": 3}, "eval_prompt must be text"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    path = write_trait(tmp_path, **changed)
    with pytest.raises(UserError) as caught:
        read_trait(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "must hold an object with keys, got list"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b" " * (2**20 + 1), "larger than"),
    ],
    ids=["empty", "a list", "no text", "nested", "large"],
)
def test_a_file_that_is_no_trait_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_trait(path)


def test_a_missing_file_and_an_unusable_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.json cannot be read: No such file"):
        read_trait(tmp_path / "gone.json")
    for name in ("coherence", "a/b", "", "..", "x" * 65):
        with pytest.raises(UserError, match="a trait's name may"):
            read_trait(write_trait(tmp_path), name)


def test_texts_are_put_in_once_whatever_they_hold() -> None:
    assert fill("{question}|{answer}|{other}", "{answer}", "{question}{0}") == (
        "{answer}|{question}{0}|{other}"
    )
    assert fill(COHERENCE_PROMPT, "Why?", "So.").count("Why?") == 1
    assert "{answer}" in COHERENCE_PROMPT


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no ../shared/data/traits on this machine")
def test_the_published_traits_are_read() -> None:
    paths = sorted(PUBLISHED.glob("*/*.json"))
    assert len(paths) == 14
    for path in paths:
        trait = read_trait(path)
        assert (len(trait.instructions), len(trait.questions)) == (5, 20)
        shown = json.loads(path.read_text())["eval_prompt"].format(question="Q?", answer="A {x}")
        assert fill(trait.eval_prompt, "Q?", "A {x}") == shown
