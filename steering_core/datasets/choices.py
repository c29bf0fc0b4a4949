"""Multiple-choice data of any kind, one JSON object for each example."""

from __future__ import annotations

from collections.abc import Sequence

from steering_core.datasets.base import Candidate, ChoiceDataset, ChoiceExample, Metric, Record
from steering_core.datasets.checking import (
    RecordFaultError,
    check_fields,
    checked_text,
    cluster_of,
    examples_of_records,
    group_of,
    id_of,
    list_of,
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
    check_fields(record, _FIELDS)
    prompt = text_of(record, "prompt", may_be_empty=True)
    candidates = tuple(
        _candidate(entry, index + 1) for index, entry in enumerate(list_of(record, "candidates"))
    )
    stem, options = stem_and_options(prompt, [candidate.text for candidate in candidates])
    return ChoiceExample(
        example_id=id_of(record, ("id",), number),
        prompt=prompt,
        candidates=candidates,
        group=group_of(record),
        cluster=cluster_of(record),
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
