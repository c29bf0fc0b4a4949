"""Warnings of a page: what a reader must know before trusting a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.page.words import counted

_MOST_LISTED = 8
FEW_CLUSTERS = 10
"""With fewer, intervals are wide, and few tests can be significant."""
RANDOM_WEIGHTS = frozenset({"embedded:gemma2-tiny"})
"""Models, as specs name them, that are known to have random weights."""


@dataclass(frozen=True)
class Caution:
    """A warning with the places that it is about.

    Attributes:
        num_more: places that are not listed.
        is_grave: whether numbers may be wrong.
    """

    title: str
    places: tuple[str, ...] = ()
    num_more: int = 0
    is_grave: bool = False

    @classmethod
    def of(cls, title: str, places: Sequence[str]) -> Caution:
        """With as many places as a reader takes in, and the number of the others."""
        return cls(title, tuple(places[:_MOST_LISTED]), max(0, len(places) - _MOST_LISTED))


def random_models(record: Mapping[str, Any]) -> list[str]:
    """Names of the models in ``run.json`` whose weights are random."""
    models = record.get("spec", {}).get("models", {})
    return [name for name, model in models.items() if model["path"] in RANDOM_WEIGHTS]


def of_lost_record(record: Mapping[str, Any]) -> Iterator[Caution]:
    """The warning that nobody knows what was run, if ``run.json`` is lost."""
    if not record:
        yield Caution("run.json is lost, so this page cannot say what was run.")


def of_certificate(found: Mapping[str, Any]) -> Iterator[Caution]:
    """Warnings that follow from ``overall`` of a ``certificate.json`` about scored rows."""
    if found["verdict"] == "broken":
        yield Caution(
            "The certificate is broken: rows of this output differ from their second computation "
            "by more than the tolerance.",
            is_grave=True,
        )
    if found["verdict"] == "not checked":
        yield Caution("No row was computed a second time, so nothing confirms these numbers.")
    if num := found["num_changed_choices"]:
        yield Caution(
            f"Of {counted(found['num_rows_checked'], 'row')} computed a second time, {num:,} chose "
            "another candidate."
        )
    if num := found["num_tasks_fell_back"]:
        yield Caution(
            f"{num:,} of {counted(found['num_tasks'], 'task')} differed by more than the tolerance "
            "and were computed row by row instead."
        )


def of_random_weights(record: Mapping[str, Any]) -> Iterator[Caution]:
    """The warning that numbers mean nothing, if a model's weights are random."""
    if names := random_models(record):
        yield Caution(
            f"The weights of {', '.join(names)} are random. This run shows that the program works; "
            "its numbers mean nothing.",
            is_grave=True,
        )
