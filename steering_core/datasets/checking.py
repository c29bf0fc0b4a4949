"""Checks of records that every data set shares, and how their faults are reported.

A reader of one record raises ``RecordFault`` with what is wrong. ``examples_of_records`` collects
the faults of a whole file, so that a user sees them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from steering_core.datasets.base import (
    FEWEST_CANDIDATES,
    MOST_CANDIDATES,
    ChoiceExample,
    Record,
)
from steersweep.errors import UserError

MOST_FAULTS = 10
"""Faults that are listed; the others are counted."""


class RecordFaultError(ValueError):
    """One record is not as its data set needs it; the message names field, value and need."""


def examples_of_records(
    records: Sequence[Record],
    where: str,
    read_one: Callable[[Record, str], ChoiceExample],
    shape: str,
    number_from: int = 1,
    fewest_candidates: int = FEWEST_CANDIDATES,
) -> list[ChoiceExample]:
    """Examples of records, in their order, each checked.

    Args:
        records: what a file holds.
        where: name of the file, for messages.
        read_one: the example of a record and of its number, which serves as an id if the record
            has none. Raises RecordFaultError.
        shape: one record, as a message shows it.
        number_from: number of the first record.
        fewest_candidates: see ``ChoiceDataset``.

    Raises:
        UserError: no record, or records with faults: one line for each, at most ten.
    """
    if not records:
        raise UserError(f"{where}: holds no record; a record looks like {shape}")
    examples: list[ChoiceExample] = []
    faults: list[str] = []
    first_with: dict[str, int] = {}
    for number, record in enumerate(records, number_from):
        try:
            example = read_one(_object(record), str(number))
            check_example(example, fewest_candidates)
            first = first_with.setdefault(example.example_id, number)
            if first != number:
                raise RecordFaultError(f"the id also belongs to record {first}; expected a new one")
        except RecordFaultError as fault:
            faults.append(f"record {number}{_id_of(record)}: {fault}")
        else:
            examples.append(example)
    raise_faults(faults, where, shape)
    return examples


def raise_faults(faults: Sequence[str], where: str, shape: str) -> None:
    """Raise one UserError for all faults; nothing if there are none."""
    if not faults:
        return
    lines = [f"{where}: {fault}" for fault in faults[:MOST_FAULTS]]
    if len(faults) > MOST_FAULTS:
        lines.append(f"... and {len(faults) - MOST_FAULTS} more")
    raise UserError(*lines, f"a record looks like {shape}")


def check_example(example: ChoiceExample, fewest_candidates: int = FEWEST_CANDIDATES) -> None:
    """Raise RecordFaultError unless an example can be scored."""
    number = len(example.candidates)
    if not fewest_candidates <= number <= MOST_CANDIDATES:
        raise RecordFaultError(
            f"candidates: got {number}, expected {fewest_candidates} to {MOST_CANDIDATES}"
        )
    for index, candidate in enumerate(example.candidates):
        checked_text(candidate.text, f"text of candidate {index + 1}")
        checked_text(candidate.label, f"label of candidate {index + 1}")
    for index, text in enumerate(example.texts):
        if text in example.texts[:index]:
            first = example.texts.index(text) + 1
            raise RecordFaultError(
                f"candidates {first} and {index + 1} are both {shown(text)}; "
                "expected different texts"
            )


def checked_text(value: Any, field: str, *, may_be_empty: bool = False) -> str:
    """A value that must be text without characters that no tokenizer can take."""
    fault = _fault_of_text(value, may_be_empty=may_be_empty)
    if fault is not None:
        raise RecordFaultError(f"{field}: {fault}, got {shown(value)}")
    return str(value)


def checked_prefix(text: str) -> str:
    """A text that can be put directly before prompts to steer by it (``with_prefix``).

    Raises:
        ValueError: it is blank, holds a character that no tokenizer can take, or does not end with
            white space, without which its last word and the prompt's first would be one. The
            message does not repeat the text.
    """
    fault = _fault_of_text(text, may_be_empty=False)
    if fault is not None:
        raise ValueError(fault)
    if not text[-1].isspace():
        raise ValueError(
            "must end with a space or a line break, because it is put directly before each text"
        )
    return text


def _fault_of_text(value: Any, *, may_be_empty: bool) -> str | None:
    """What is wrong with a value that must be text; None if nothing is."""
    if not isinstance(value, str):
        return "expected text"
    if not (may_be_empty or value.strip()):
        return "expected text that is not empty"
    if "\0" in value:
        return "holds a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is not valid Unicode text"
    return None


def text_of(record: Record, field: str, *, may_be_empty: bool = False) -> str:
    """The text in a field of a record."""
    return checked_text(_value(record, field), field, may_be_empty=may_be_empty)


def one_of(record: Record, field: str, allowed: Sequence[str]) -> str:
    """The text in a field of a record, which must be one of a few."""
    value = text_of(record, field)
    if value not in allowed:
        raise RecordFaultError(f"{field}: expected {' or '.join(allowed)}, got {shown(value)}")
    return value


def name_of(value: Any, field: str) -> str:
    """An id or the name of a group as text; whole numbers are written in digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return checked_text(value, field)


def id_of(record: Record, fields: Sequence[str], number: str) -> str:
    """The id in the first of these fields that a record has, otherwise the record's number."""
    field = next((field for field in fields if record.get(field) is not None), None)
    return number if field is None else name_of(record[field], field or "first column")


def check_fields(record: Record, known: Sequence[str]) -> None:
    """Raise RecordFaultError if a record has a field of another name."""
    unknown = next((name for name in record if name not in known), None)
    if unknown is not None:
        raise RecordFaultError(f"{unknown}: unknown field; expected {', '.join(known)}")


def group_of(record: Record) -> tuple[tuple[str, str], ...]:
    """Keys and values of the object ``group`` of a record; none if it has no such field."""
    if record.get("group") is None:
        return ()
    group = object_of(record, "group")
    return tuple((name_of(k, "key of group"), name_of(v, f"group.{k}")) for k, v in group.items())


def cluster_of(record: Record) -> str:
    """The field ``cluster`` of a record; empty if it has none."""
    cluster = record.get("cluster")
    return "" if cluster is None else name_of(cluster, "cluster")


def object_of(record: Record, field: str) -> Record:
    """The object in a field of a record."""
    value = _value(record, field)
    if not isinstance(value, dict):
        raise RecordFaultError(f"{field}: expected an object, got {shown(value)}")
    return value


def list_of(record: Record, field: str) -> list[Any]:
    """The list in a field of a record."""
    value = _value(record, field)
    if not isinstance(value, list):
        raise RecordFaultError(f"{field}: expected a list, got {shown(value)}")
    return value


def shown(value: Any, most_chars: int = 60) -> str:
    """A value as a message shows it, on one line and not too long."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if value is None:
        return "nothing"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= most_chars else f"{text[: most_chars - 3]}..."


def _value(record: Record, field: str) -> Any:
    if field not in record:
        names = ", ".join(str(name)[:30] for name in list(record)[:12])
        raise RecordFaultError(f"{field}: is missing; the record has {names or 'no field'}")
    return record[field]


def _object(record: Any) -> Record:
    if not isinstance(record, dict):
        raise RecordFaultError(f"expected an object, got {shown(record)}")
    return record


def _id_of(record: Any) -> str:
    """The id of a record in parentheses, if it has one that can be shown."""
    if not isinstance(record, dict):
        return ""
    fields = ("id", "example_id", "sentid")
    return next((in_parentheses(record[f]) for f in fields if record.get(f) is not None), "")


def in_parentheses(record_id: Any) -> str:
    """An id as it follows the number of a record in a message."""
    return f" (id {shown(record_id, 40).strip(chr(39))})"
