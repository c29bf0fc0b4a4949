"""A trait: instructions that ask for it and for its opposite, questions, and how it is judged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersweep.errors import UserError

COHERENCE = "coherence"
"""What every answer is scored for beside the trait; no trait may have this name."""

_KEYS = ("instruction", "questions", "eval_prompt")
_MOST_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NEUTRAL = "helpful"


@dataclass(frozen=True)
class InstructionPair:
    """An instruction that asks for the trait, and one that asks for its opposite."""

    positive: str
    negative: str


@dataclass(frozen=True)
class Trait:
    """A trait as its file has it.

    Attributes:
        eval_prompt: what a judge reads, with ``{question}`` and ``{answer}`` to be filled in.
    """

    name: str
    instructions: tuple[InstructionPair, ...]
    questions: tuple[str, ...]
    eval_prompt: str

    def positive_system(self, pair: InstructionPair, assistant: str | None = None) -> str:
        """The system text that asks for the trait; the assistant is named after it by default."""
        return system_text(assistant or self.name, pair.positive)

    def negative_system(self, pair: InstructionPair, assistant: str = _NEUTRAL) -> str:
        """The system text that asks for the trait's opposite."""
        return system_text(assistant, pair.negative)


def system_text(assistant: str, instruction: str) -> str:
    """``You are an evil assistant. {instruction}``.

    The article goes by the letter that the name begins with (an: a, e, i, o, u, of either case),
    not by its sound: a "honest" assistant. Source: ``a_or_an`` in the code published with Chen et
    al. 2025 (persona vectors).
    """
    article = "an" if assistant[0].lower() in "aeiou" else "a"
    return f"You are {article} {assistant} assistant. {instruction}"


def read_trait(path: Path, name: str | None = None) -> Trait:
    """The trait in a JSON file, named after the file where ``name`` is left out.

    The file holds ``instruction`` (a list of ``{"pos": ..., "neg": ...}``), ``questions`` and
    ``eval_prompt``, as those published with Chen et al. 2025 do; other keys are left alone.

    Raises:
        UserError: no such file, a missing or empty key, or an ``eval_prompt`` that does not show
            the judge the answer.
    """
    name = path.stem if name is None else name
    if not _NAME.fullmatch(name) or name == COHERENCE:
        raise UserError(
            f"{path}: a trait's name may have letters, digits, '.', '_' and '-', at most 64, and "
            f"must not be {COHERENCE!r}; got {name!r}"
        )
    document = _parse(path)
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing; a trait file has {', '.join(_KEYS)}")
    return Trait(
        name=name,
        instructions=_pairs(document["instruction"], path),
        questions=_questions(document["questions"], path),
        eval_prompt=_eval_prompt(document["eval_prompt"], path),
    )


def _parse(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path} is larger than {_MOST_BYTES:,} bytes, which no trait file needs")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: must hold an object with keys, got {type(document).__name__}")
    return document


def _pairs(value: Any, path: Path) -> tuple[InstructionPair, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{path}: instruction needs at least one pair of pos and neg")
    pairs = []
    for number, entry in enumerate(value, 1):
        texts = [entry.get(key) if isinstance(entry, dict) else None for key in ("pos", "neg")]
        if not all(_is_text(text) for text in texts):
            raise UserError(f"{path}: instruction {number} must have pos and neg, both text")
        pairs.append(InstructionPair(*map(str, texts)))
    return tuple(pairs)


def _questions(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{path}: there are no questions; a trait needs at least one")
    for number, question in enumerate(value, 1):
        if not _is_text(question):
            raise UserError(f"{path}: question {number} must be text, got {repr(question)[:60]}")
    return tuple(value)


def _eval_prompt(value: Any, path: Path) -> str:
    if not _is_text(value):
        raise UserError(f"{path}: eval_prompt must be text")
    if "{answer}" not in value:
        raise UserError(
            f"{path}: eval_prompt has no {{answer}}, so the judge would not see what it scores"
        )
    return str(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
