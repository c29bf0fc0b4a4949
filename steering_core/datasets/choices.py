"""Multiple-choice data of any kind, one JSON object for each example."""

from __future__ import annotations

from collections.abc import Sequence

from steering_core.datasets.base import Candidate, ChoiceDataset, ChoiceExample, Metric, Record
from steering_core.datasets.checking import (
    RecordFaultError,
    checked_text,
    examples_of_records,
    id_of,
    list_of,
    name_of,
    object_of,
    shown,
    text_of,
)
from steering_core.datasets.listing import are_letters, find_listing, without_cue
from steering_core.datasets.measures import accuracies, label_shares

SHAPE = (
    '{"id": "x1", "group": {"topic": "gender"}, "cluster": "nurse", "prompt": "text", '
    '"candidates": [{"text": " A", "label": "correct"}, {"text": " B", "label": "incorrect"}]}'
)
_FIELDS = ("id", "group", "cluster", "prompt", "candidates")


def read(records: Sequence[Record], where: str) -> list[ChoiceExample]:
    """Examples of records; ``id``, ``group`` and ``cluster`` may be left out."""
    return examples_of_records(records, where, _example, SHAPE)


def _example(record: Record, number: str) -> ChoiceExample:
    unknown = next((name for name in record if name not in _FIELDS), None)
    if unknown is not None:
        raise RecordFaultError(f"{unknown}: unknown field; expected {', '.join(_FIELDS)}")
    prompt = text_of(record, "prompt", may_be_empty=True)
    candidates = tuple(
        _candidate(entry, index + 1) for index, entry in enumerate(list_of(record, "candidates"))
    )
    cluster = record.get("cluster")
    stem, options = stem_and_options(prompt, [candidate.text for candidate in candidates])
    return ChoiceExample(
        example_id=id_of(record, ("id",), number),
        prompt=prompt,
        candidates=candidates,
        group=_group(record),
        cluster="" if cluster is None else name_of(cluster, "cluster"),
        stem=stem,
        options=options,
    )


def _candidate(entry: object, number: int) -> Candidate:
    if not isinstance(entry, dict):
        raise RecordFaultError(
            f"candidate {number}: expected an object with text and label, got {shown(entry)}"
        )
    text, label = (
        checked_text(entry.get(field), f"{field} of candidate {number}")
        for field in ("text", "label")
    )
    return Candidate(text, label)


def _group(record: Record) -> tuple[tuple[str, str], ...]:
    if record.get("group") is None:
        return ()
    group = object_of(record, "group")
    return tuple((name_of(k, "key of group"), name_of(v, f"group.{k}")) for k, v in group.items())


def stem_and_options(prompt: str, texts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """What other frames need, if it can be known: the prompt without its list, and the options.

    If the candidates are letters, the options are the lines of the prompt's list. If the prompt
    lists nothing, they are the candidates' own texts.
    """
    stripped = tuple(text.strip() for text in texts)
    listing = find_listing(prompt)
    if listing is not None:
        is_listed = len(listing.options) == len(texts) and (
            are_letters(texts)
            or all(t.endswith(o) for t, o in zip(stripped, listing.options, strict=True))
        )
        return (listing.stem, listing.options) if is_listed else ("", ())
    if not prompt.strip() or are_letters(texts) or len(set(stripped)) < len(stripped):
        return "", ()
    return without_cue(prompt), stripped


def metrics(labels: Sequence[str]) -> list[Metric]:
    """Accuracies if a label is ``correct``, then the share of each label."""
    return [*accuracies(labels), *label_shares(labels)]


CHOICES = ChoiceDataset(
    name="choices",
    title="multiple-choice data in the general format",
    licence="what the source of the data states",
    homepage="",
    shape=SHAPE,
    read=read,
    metrics=metrics,
)
