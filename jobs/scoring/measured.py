"""Data sets that a sweep's vectors are measured on, read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from jobs.data_source import source_of_set
from jobs.datasets.load import load_examples
from jobs.datasets.spec import ExamplesSpec
from jobs.scoring.choice_rows import ChoiceRows, examples_table
from steering_core.datasets.base import ChoiceDataset, ChoiceExample
from steering_core.protocol import Protocol
from steersweep.errors import UserError


@dataclass(frozen=True)
class MeasuredSet:
    """A data set of ``side_effects``.

    Attributes:
        examples: as they are scored, by id.
        digest: of the content of all of its data.
        rows: how its examples are encoded, and their scores stored.
    """

    name: str
    spec: ExamplesSpec
    dataset: ChoiceDataset
    examples: Mapping[str, ChoiceExample]
    digest: str
    rows: ChoiceRows

    @property
    def texts_key(self) -> str:
        """Where its texts are stored."""
        return texts_key(self.name)

    def texts(self) -> pa.Table:
        """The texts behind the ids of its rows."""
        source = source_of_set(self.dataset, self.spec.path)
        return examples_table(list(self.examples.values()), source.metadata())

    @property
    def task_identity(self) -> dict[str, Any]:
        """What changes the numbers of an example and is not part of it."""
        return {"data.chat": {"options": self.spec.chat_options} if self.spec.chat else None}

    def identity(self) -> dict[str, Any]:
        """What decides which examples are scored, and how, by key of the sweep file."""
        spec = self.spec
        plain = {
            "format": self.dataset.name,
            "frame": spec.frame,
            "candidate_orders": spec.candidate_orders,
            "limit": spec.limit,
            "seed": spec.seed,
            "chat": self.task_identity["data.chat"],
        }
        where = f"side_effects.{self.name}"
        return {
            f"{where} (content)": self.digest,
            **{f"{where}.{key}": value for key, value in plain.items()},
        }


TEXTS = "side_effects_texts/"
"""Folder of the texts of data sets, in an output."""


def texts_key(name: str) -> str:
    """Where the texts of a data set of ``side_effects`` are stored."""
    return f"{TEXTS}{name}.parquet"


def read_sets(sets: Mapping[str, ExamplesSpec]) -> dict[str, MeasuredSet]:
    """The data sets by name.

    Raises:
        UserError: a set is not there or cannot be read; the message names its key.
    """
    return {name: _read(name, spec) for name, spec in sets.items()}


def _read(name: str, spec: ExamplesSpec) -> MeasuredSet:
    try:
        loaded = load_examples(spec.path, spec.format, **spec.options())
    except UserError as error:
        first, *more = error.lines
        raise UserError(f"side_effects.{name}: {first}", *more) from error
    return MeasuredSet(
        name,
        spec,
        loaded.dataset,
        {example.example_id: example for example in loaded.examples},
        loaded.digest,
        rows_of(loaded.examples, spec.chat, spec.chat_options),
    )


def rows_of(
    examples: Iterable[ChoiceExample], chat: bool, chat_options: Mapping[str, str]
) -> ChoiceRows:
    """Rows of a set. Nothing is pooled of it, so they have no contrast."""
    keys = dict.fromkeys(key for example in examples for key, _ in example.group)
    return ChoiceRows(tuple(keys), None, chat, tuple(sorted(chat_options.items())))


def protocol_of_sets(protocol: Protocol) -> Protocol:
    """How other data is scored: steered as the sweep's own data, candidates in context.

    A StereoSet sweep may score its own rows as the paper's notebook does, which means nothing for
    other data.
    """
    return replace(protocol, scoring="aligned", pooling="candidate", folds=1)
