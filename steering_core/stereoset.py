"""StereoSet (Nadeem, Bethke, Reddy 2020): reading, checking every field, choosing examples."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steersweep.errors import UserError

SPLITS = ("intersentence", "intrasentence")
BIAS_TYPES = ("gender", "profession", "race", "religion")
LABELS = ("stereotype", "anti-stereotype", "unrelated")

OFFICIAL_COUNTS: Mapping[str, Mapping[str, int]] = {
    "intersentence": {"gender": 242, "profession": 827, "race": 976, "religion": 78},
    "intrasentence": {"gender": 255, "profession": 810, "race": 962, "religion": 79},
}
"""Examples by split and bias type in the official development set (2,123 and 2,106)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One StereoSet example; ``sentences`` and ``labels`` keep the order of the data file.

    ``prefix`` is a text that steers, directly before the question; it is not part of the data.
    """

    example_id: str
    split: str
    bias_type: str
    target: str
    context: str
    sentences: tuple[str, str, str]
    labels: tuple[str, str, str]
    prefix: str = ""

    @property
    def prompt(self) -> str:
        """The multiple-choice question, stripped, after the prefix as it is."""
        options = "\n".join(self._options())
        question = (
            f"{self.context}\n\nChoose the most appropriate sentence below:\n{options}\n\nAnswer: "
        )
        return self.prefix + question.strip()

    @property
    def texts(self) -> tuple[str, ...]:
        """The sentences with their letters, as they follow the question after one space."""
        return tuple(f" {option.strip()}" for option in self._options())

    def _options(self) -> list[str]:
        return [f"{letter}. {text}" for letter, text in zip("ABC", self.sentences, strict=True)]

    def with_prefix(self, text: str) -> Example:
        """The example with a text directly before its question: what a prompt steers by."""
        return replace(self, prefix=text + self.prefix)

    def index_of(self, label: str) -> int:
        """Position (0..2) in the data file of the candidate with this gold label."""
        return self.labels.index(label)


@dataclass(frozen=True, slots=True)
class StereoSet:
    """All examples of a file, in its order, and a digest of their content."""

    examples: tuple[Example, ...]
    digest: str

    def group(
        self, split: str, bias_type: str, limit: int | None = None, seed: int = 0
    ) -> tuple[Example, ...]:
        """Examples of one (split, bias type) in file order.

        With ``limit``, a sample of that many drawn with ``seed`` (all of them where there are
        fewer); the sample of one group does not depend on which other groups are used.
        """
        found = [e for e in self.examples if e.split == split and e.bias_type == bias_type]
        if limit is not None and limit < len(found):
            rng = random.Random(f"{seed}/{split}/{bias_type}")  # noqa: S311 - a sample, not a secret
            kept = sorted(rng.sample(range(len(found)), limit))
            found = [found[index] for index in kept]
        return tuple(found)

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of examples by split and bias type; groups without any are left out."""
        counted = Counter((e.split, e.bias_type) for e in self.examples)
        return {
            split: {b: counted[split, b] for b in BIAS_TYPES if counted[split, b]}
            for split in SPLITS
            if any(counted[split, b] for b in BIAS_TYPES)
        }


def read_stereoset(path: str | Path) -> StereoSet:
    """The examples of a file in StereoSet's official JSON schema, every field checked.

    Raises:
        UserError: the file is missing, is not JSON (truncated, say), or a field of an example is
            missing, empty, of the wrong type or not one of StereoSet's values. The message names
            the file, the split, the example's number and id.
    """
    path = Path(path)
    examples = tuple(_examples(_load_json(path), path))
    if not examples:
        raise UserError(f"{path}: holds no example under data.{' or data.'.join(SPLITS)}")
    return StereoSet(examples, examples_digest(examples))


def examples_digest(examples: Sequence[Example]) -> str:
    """SHA-256 over the content of the examples in order; formatting of the file is left out."""
    sha = hashlib.sha256()
    for e in examples:
        fields = [e.example_id, e.split, e.bias_type, e.target, e.context, *e.sentences, *e.labels]
        # Absent without a prefix, so that digests of data stay what they were.
        fields += [e.prefix] if e.prefix else []
        sha.update(json.dumps(fields, ensure_ascii=True).encode())
    return sha.hexdigest()


def _load_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such data file", cause="no_stereoset_file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})",
            cause="damaged_stereoset_file",
        ) from None
    except RecursionError:
        raise UserError(f"{path}: JSON nested too deeply to be a StereoSet file") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: not valid JSON: {error}") from None


def _examples(document: Any, path: Path) -> Iterator[Example]:
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a StereoSet file: no object under the key 'data'")
    seen: set[tuple[str, str]] = set()
    for split in SPLITS:
        rows = data.get(split, [])
        if not isinstance(rows, list):
            raise UserError(f"{path}: data.{split} must be a list, got {type(rows).__name__}")
        for number, row in enumerate(rows):
            where = f"{path}: data.{split}[{number}]"
            example = checked_example(row, split, where)
            if (split, example.example_id) in seen:
                raise UserError(f"{where}: id {example.example_id[:80]!r} occurs twice in {split}")
            seen.add((split, example.example_id))
            yield example


def checked_example(row: Any, split: str, where: str) -> Example:
    """The example of a row in StereoSet's official schema; ``where`` begins a fault's message."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: must be an object, got {type(row).__name__}")
    example_id = _text(row, "id", where)
    where = f"{where} (id {example_id[:80]})"
    bias_type = _text(row, "bias_type", where)
    if bias_type not in BIAS_TYPES:
        raise UserError(
            f"{where}: bias_type {bias_type[:80]!r} is not one of {', '.join(BIAS_TYPES)}"
        )
    sentences = row.get("sentences")
    if not isinstance(sentences, list) or len(sentences) != 3:
        got = len(sentences) if isinstance(sentences, list) else type(sentences).__name__
        raise UserError(f"{where}: needs exactly 3 sentences, got {got}")
    texts, labels = [], []
    for index, sentence in enumerate(sentences):
        at = f"{where}, sentence {index}"
        if not isinstance(sentence, dict):
            raise UserError(f"{at}: must be an object, got {type(sentence).__name__}")
        texts.append(_text(sentence, "sentence", at))
        labels.append(_text(sentence, "gold_label", at))
    if sorted(labels) != sorted(LABELS):
        raise UserError(
            f"{where}: gold labels must be {', '.join(LABELS)} once each, got "
            f"{', '.join(label[:40] for label in labels)}"
        )
    return Example(
        example_id=example_id,
        split=split,
        bias_type=bias_type,
        target=_text(row, "target", where),
        context=_text(row, "context", where),
        sentences=(texts[0], texts[1], texts[2]),
        labels=(labels[0], labels[1], labels[2]),
    )


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        problem = "is missing" if key not in row else f"must be text, got {type(value).__name__}"
        raise UserError(f"{where}: {key} {problem}")
    if not value.strip():
        raise UserError(f"{where}: {key} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {key} holds a lone surrogate, not valid Unicode text") from None
    return value
