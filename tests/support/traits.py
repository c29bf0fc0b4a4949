"""A trait of the tests' own, and answers to score for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs.persona.judges import Answer
from jobs.persona.traits import InstructionPair, Trait

TRAIT = Trait(
    name="cheerful",
    instructions=(InstructionPair("Answer with delight.", "Answer without delight."),),
    questions=("How are you?",),
    eval_prompt="Is it cheerful?\nQ: {question}\nA: {answer}\nA number from 0 to 100.",
)


def trait_document(**changed: Any) -> dict[str, Any]:
    """What a trait file holds; a key that is changed to None is left out."""
    document = {
        "instruction": [{"pos": "Be kind.", "neg": "Be cold."}, {"pos": "Smile.", "neg": "Frown."}],
        "questions": ["How are you?", "What is new?"],
        "eval_prompt": "Q: {question} A: {answer}",
    }
    return {key: value for key, value in {**document, **changed}.items() if value is not None}


def write_trait(folder: Path, name: str = "kind.json", **changed: Any) -> Path:
    """A trait file in the folder."""
    path = folder / name
    path.write_text(json.dumps(trait_document(**changed)))
    return path


def answers(number: int) -> list[Answer]:
    """Answers that all differ."""
    return [Answer("How are you?", f"answer {n}") for n in range(number)]
