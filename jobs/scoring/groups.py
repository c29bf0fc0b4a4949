"""Examples, and groups of them: those of a model that share steering vectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol, Self, TypeVar
from urllib.parse import quote


class ScoredExample(Protocol):
    """What every job's examples have."""

    @property
    def example_id(self) -> str:
        """Unique in its group."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One for each candidate."""

    def with_prefix(self, text: str) -> Self:
        """The example with a text directly before its prompt."""


ExampleT = TypeVar("ExampleT", bound=ScoredExample)

GroupKey = tuple[str, ...]
"""The values of a job's axes, which name a group of examples of any model."""


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """Examples that share steering vectors.

    Attributes:
        key: a value of each axis.
        axes: names of the job's axes: ``split``, ``bias_type``.
    """

    model: str
    key: GroupKey
    axes: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join((self.model, *self.key))

    @property
    def place(self) -> tuple[tuple[str, str], ...]:
        """(axis, value) pairs."""
        return tuple(zip(self.axes, self.key, strict=True))

    @property
    def columns(self) -> dict[str, str]:
        """What hive columns say of its rows: the model, then the value of each axis."""
        return {"model": self.model, **dict(self.place)}

    @property
    def folder(self) -> str:
        """Its folder in a table: ``model=base/split=intersentence/bias_type=race``."""
        return _folder(self)


@cache  # asked for by each of a plan's tasks
def _folder(group: Group) -> str:
    return "/".join(f"{axis}={quoted(value)}" for axis, value in group.columns.items())


def quoted(value: str) -> str:
    """A value as part of a storage key, as hive readers decode it."""
    text = quote(value, safe="")
    # Which leaves dots as they are; alone they would lead out of a folder.
    return text if text.strip(".") else text.replace(".", "%2E")
