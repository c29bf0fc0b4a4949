"""Warnings of a page: what a reader must know before trusting a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MOST_LISTED = 8
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


def of_random_weights(record: Mapping[str, Any]) -> Iterator[Caution]:
    """The warning that numbers mean nothing, if a model's weights are random."""
    if names := random_models(record):
        yield Caution(
            f"The weights of {', '.join(names)} are random. This run shows that the program works; "
            "its numbers mean nothing.",
            is_grave=True,
        )
