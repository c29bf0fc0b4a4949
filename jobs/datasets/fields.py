"""Columns of common layouts as records of ``format: choices`` and ``format: text``."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steering_core.datasets.base import CORRECT, Record
from steering_core.datasets.checking import (
    RecordFaultError,
    checked_text,
    in_parentheses,
    name_of,
    raise_faults,
    shown,
    text_of,
)
from steering_core.datasets.frames import after
from steering_core.datasets.listing import LETTERS
from steersweep.errors import UserError

INCORRECT = "incorrect"


@dataclass(frozen=True, kw_only=True)
class ColumnMapping(ABC):
    """Which column holds what of any record.

    Attributes:
        id, cluster: left out, records are numbered and each is its own cluster.
        group: the column for each key of the group.
    """

    id: str | None = None
    cluster: str | None = None
    group: Mapping[str, str] = field(default_factory=dict)

    def columns(self) -> dict[str, str]:
        """Every column by the place in the mapping that names it."""
        single = {name: getattr(self, name) for name in ("id", "cluster")}
        of_group = {f"group.{key}": column for key, column in self.group.items()}
        return {k: v for k, v in single.items() if v is not None} | of_group

    @abstractmethod
    def content(self, record: Record) -> Record:
        """The other fields of a record; raises RecordFaultError for values that do not fit."""


@dataclass(frozen=True, kw_only=True)
class TextMapping(ColumnMapping):
    """Which column holds the texts."""

    text: str

    def columns(self) -> dict[str, str]:
        """See ``ColumnMapping``."""
        return {"text": self.text} | super().columns()

    def content(self, record: Record) -> Record:
        """See ``ColumnMapping``."""
        return {"text": text_of(record, self.text)}


@dataclass(frozen=True, kw_only=True)
class FieldMapping(ColumnMapping):
    """Which column holds what of multiple-choice examples.

    Attributes:
        candidates: one column with a list of texts, or with an object ``{text: [...], label:
            [...]}``; or one column for each candidate, where null stands for one that is missing.
        prompt: left out, prompts are empty.
        correct: the column that tells which candidate is right, by its index from 0, its label in
            the object, its text or its letter. Left out, the label of a candidate is the name of
            its column.
    """

    candidates: str | tuple[str, ...]
    prompt: str | None = None
    correct: str | None = None

    def columns(self) -> dict[str, str]:
        """See ``ColumnMapping``."""
        single = {name: getattr(self, name) for name in ("prompt", "correct")}
        single = {name: column for name, column in single.items() if column is not None}
        if isinstance(self.candidates, str):
            single["candidates"] = self.candidates
        else:
            single |= {f"candidates[{n}]": column for n, column in enumerate(self.candidates)}
        return single | super().columns()

    def content(self, record: Record) -> Record:
        """See ``ColumnMapping``: prompt and candidates.

        A candidate's text gets the space that separates it from its prompt, unless it has one.
        """
        prompt = ""
        if self.prompt is not None:
            prompt = text_of(record, self.prompt, may_be_empty=True)
        texts, names = _candidates(record, self)
        labels = names
        if self.correct is not None:
            right = _correct(record.get(self.correct), self.correct, texts, names)
            labels = [CORRECT if n == right else INCORRECT for n in range(len(texts))]
        candidates = [
            {"text": after(prompt, text), "label": label}
            for text, label in zip(texts, labels, strict=True)
        ]
        return {"prompt": prompt, "candidates": candidates}


_KEYS_OF_ANY = ("id", "cluster", "group")


def text_mapping(fields: Mapping[str, Any]) -> TextMapping:
    """The checked mapping of a specification for ``format: text``.

    Raises:
        UserError: an unknown key, a value of another kind, or no column of texts.
    """
    _check_keys(fields, ("text", *_KEYS_OF_ANY))
    if fields.get("text") is None:
        raise UserError("fields.text is required: the column that holds the texts")
    return TextMapping(**_single(fields, ("text", "id", "cluster")), group=_group(fields))


def field_mapping(fields: Mapping[str, Any]) -> FieldMapping:
    """The checked mapping of a specification for ``format: choices``.

    Raises:
        UserError: an unknown key, a value of another kind, or no candidates.
    """
    _check_keys(fields, ("prompt", "candidates", "correct", *_KEYS_OF_ANY))
    candidates = fields.get("candidates")
    if isinstance(candidates, list | tuple):
        candidates = tuple(candidates)
    names = candidates if isinstance(candidates, tuple) else (candidates,)
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            "fields.candidates: expected the name of a column, or a list of names, got "
            f"{shown(fields.get('candidates'))}"
        )
    single, group = _single(fields, ("prompt", "correct", "id", "cluster")), _group(fields)
    if isinstance(candidates, str) and single["correct"] is None:
        raise UserError(
            "fields.correct is required: the column that tells which candidate is right"
        )
    return FieldMapping(candidates=candidates, group=group, **single)  # type: ignore[arg-type]


def _check_keys(fields: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = next((key for key in fields if key not in known), None)
    if unknown is not None:
        raise UserError(f"fields: unknown key {unknown}; {_nearest(str(unknown), known)}")


def _single(fields: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The column of each key that names one, or None."""
    return {key: _column(fields.get(key), key) for key in keys}


def _group(fields: Mapping[str, Any]) -> dict[str, str]:
    group = fields.get("group") or {}
    if not isinstance(group, Mapping):
        raise UserError(f"fields.group: expected keys with their columns, got {shown(group)}")
    columns = {key: _column(column, f"group.{key}") for key, column in group.items()}
    return {key: column for key, column in columns.items() if column is not None}


def _column(name: Any, key: str) -> str | None:
    if name is not None and not isinstance(name, str):
        raise UserError(f"fields.{key}: expected the name of a column, got {shown(name)}")
    return name


def mapped_records(records: Sequence[Any], mapping: ColumnMapping, where: str) -> list[Record]:
    """Records as their format wants them, in their order.

    Raises:
        UserError: a column that no record has, with the nearest one; or a line for each record
            whose values do not fit.
    """
    _check_columns(records, mapping, where)
    mapped: list[Record] = []
    faults = []
    for number, record in enumerate(records, 1):
        try:
            mapped.append(_mapped(record, mapping, number))
        except RecordFaultError as fault:
            faults.append(f"record {number}{_id_of(record, mapping)}: {fault}")
    raise_faults(faults, where, _example_of_columns(mapping))
    return mapped


def _id_of(record: Any, mapping: ColumnMapping) -> str:
    """The id of a record in parentheses, if it has one."""
    if not isinstance(record, dict) or mapping.id is None or record.get(mapping.id) is None:
        return ""
    return in_parentheses(record[mapping.id])


def _example_of_columns(mapping: ColumnMapping) -> str:
    return "{" + ", ".join(f'"{column}": ...' for column in mapping.columns().values()) + "}"


def _check_columns(records: Sequence[Any], mapping: ColumnMapping, where: str) -> None:
    known = dict.fromkeys(key for r in records if isinstance(r, dict) for key in r)
    lines = [
        f"{where}: fields.{place}: the data has no column {column!r}; "
        f"{_nearest(column, [str(name) for name in known])}"
        for place, column in mapping.columns().items()
        if column not in known
    ]
    if lines and records:
        raise UserError(*lines)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"it has {', '.join(known[:20])}" if known else "it has none"


def _mapped(record: Any, mapping: ColumnMapping, number: int) -> Record:
    if not isinstance(record, dict):
        raise RecordFaultError(f"expected an object, got {shown(record)}")
    mapped: dict[str, Any] = {
        "id": str(number) if mapping.id is None else record.get(mapping.id),
        **mapping.content(record),
        "group": {k: name_of(record.get(column), column) for k, column in mapping.group.items()},
    }
    if mapping.cluster is not None:
        mapped["cluster"] = name_of(record.get(mapping.cluster), mapping.cluster)
    if mapping.id is not None:
        name_of(mapped["id"], mapping.id)
    return mapped


def _candidates(record: Record, mapping: FieldMapping) -> tuple[list[str], list[str]]:
    """Texts of the candidates, and what else they go by: labels or columns; maybe nothing."""
    if not isinstance(mapping.candidates, str):
        columns = [c for c in mapping.candidates if record.get(c) is not None]
        return [text_of(record, column) for column in columns], columns
    column = mapping.candidates
    value: Any = record.get(column)
    names: Any = []
    if isinstance(value, dict):
        value, names = value.get("text"), value.get("label")
        if not isinstance(names, list) or not isinstance(value, list) or len(names) != len(value):
            raise RecordFaultError(
                f"{column}: expected lists text and label of the same length, "
                f"got {shown(record[column])}"
            )
    if not isinstance(value, list):
        raise RecordFaultError(
            f"{column}: expected a list of texts, or an object with lists text and label, "
            f"got {shown(value)}"
        )
    texts = [checked_text(text, f"{column}[{n}]") for n, text in enumerate(value)]
    return texts, [str(name) for name in names]


def _correct(value: Any, column: str, texts: Sequence[str], names: Sequence[str]) -> int:
    """Index of the right candidate."""
    plain = [text.strip() for text in texts]
    if isinstance(value, int) and not isinstance(value, bool):
        if str(value) in names:
            return names.index(str(value))
        if 0 <= value < len(texts):
            return value
    elif isinstance(value, str):
        answer = value.strip()
        letters = list(LETTERS[: len(texts)])
        numbers = [str(n) for n in range(len(texts))]
        for known in (list(names), plain, letters, numbers):
            if answer in known:
                return known.index(answer)
    raise RecordFaultError(
        f"{column}: expected the right candidate's index (0 to {len(texts) - 1}), letter or text, "
        f"got {shown(value)}"
    )
