"""``index.json``: the parts that a persona sweep consists of; others beside them do not count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.errors import ObjectNotFoundError
from cluster.storage import Storage
from jobs.persona.filter import EffectivePairs
from jobs.persona.resolve import ROWS_PER_TASK
from jobs.persona.tables import Phase
from jobs.sweeps.parts import PartRef
from steersweep.errors import UserError

INDEX_KEY = "index.json"
ROWS_PER_TASK_KEY = "rows_per_task"
"""Here and in ``run.json``: what ``compute.examples_per_task: auto`` means in this output."""
_VERSION = 2
"""Goes with ``IDS_VERSION``: an index names parts by task id, and tells which ids those are if the
record is lost."""


@dataclass(frozen=True, order=True)
class Group:
    """A model and a trait."""

    model: str
    trait: str

    def __str__(self) -> str:
        return f"{self.model}/{self.trait}"


GroupParts = Mapping[tuple[Group, Phase], Sequence[PartRef]]


@dataclass
class Parts:
    """What a sweep has come to, filled stage by stage; every part named is in storage.

    Attributes:
        cells: layers and positions that are steered; empty in outputs of earlier versions.
        num_rows: answers that are planned, by group and phase.
        vectors: storage key of the vectors that steer, by group.
        side_effects: ids of the tasks in the manifest that score the sweep's data sets.
        rows_per_task: answers of a task if the spec says auto.
        version: of the index that was read; None if there is none.
    """

    cells: list[tuple[int, str]] = field(default_factory=list)
    num_rows: dict[tuple[Group, Phase], int] = field(default_factory=dict)
    answers: dict[tuple[Group, Phase], list[PartRef]] = field(default_factory=dict)
    scores: dict[tuple[Group, Phase], list[PartRef]] = field(default_factory=dict)
    pairs: dict[Group, EffectivePairs] = field(default_factory=dict)
    vectors: dict[Group, str] = field(default_factory=dict)
    projections: dict[tuple[Group, Phase], list[PartRef]] = field(default_factory=dict)
    side_effects: list[str] = field(default_factory=list)
    rows_per_task: int = ROWS_PER_TASK
    version: int | None = None

    def as_bytes(self) -> bytes:
        """The content of ``index.json``."""
        content = {
            "index_version": _VERSION,
            ROWS_PER_TASK_KEY: self.rows_per_task,
            "cells": [list(cell) for cell in self.cells],
            "num_rows": [[*_key(key), num] for key, num in self.num_rows.items()],
            **{name: _plain(getattr(self, name)) for name in ("answers", "scores", "projections")},
            "pairs": [[g.model, g.trait, asdict(pairs)] for g, pairs in self.pairs.items()],
            "vectors": [[g.model, g.trait, key] for g, key in self.vectors.items()],
            # Absent from the index of a sweep without data sets, which stays what it was.
            **({"side_effects": self.side_effects} if self.side_effects else {}),
        }
        return json.dumps(content, indent=1).encode()

    @classmethod
    def read(cls, storage: Storage) -> Parts:
        """What the last session wrote down; nothing yet where no stage has ended.

        Raises:
            UserError: it is damaged, or a newer version wrote it.
        """
        where = storage.uri_of(INDEX_KEY)
        try:
            data = storage.read(INDEX_KEY)
        except ObjectNotFoundError:
            return cls()
        try:
            content = json.loads(data)
            version = content["index_version"]
            # Of a newer version, only this number is understood.
            parts = cls() if version > _VERSION else cls._of_content(content)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{where} is damaged; delete it, and run the same command again"
            ) from error
        if version > _VERSION:
            raise UserError(
                f"{where} has version {version}, but this steersweep reads versions up to "
                f"{_VERSION}; use a newer steersweep"
            )
        return parts

    @classmethod
    def _of_content(cls, content: Mapping[str, Any]) -> Parts:
        """The index in a file's content; KeyError, TypeError or ValueError if it is damaged."""
        return cls(
            cells=[(layer, positions) for layer, positions in content.get("cells", ())],
            num_rows={(Group(m, t), p): num for m, t, p, num in content["num_rows"]},
            **{name: _parts(content[name]) for name in ("answers", "scores", "projections")},
            pairs={
                Group(m, t): EffectivePairs(**{**pairs, "kept": tuple(pairs["kept"])})
                for m, t, pairs in content["pairs"]
            },
            vectors={Group(m, t): key for m, t, key in content["vectors"]},
            side_effects=[str(plan_id) for plan_id in content.get("side_effects", ())],
            rows_per_task=int(content.get(ROWS_PER_TASK_KEY, ROWS_PER_TASK)),
            version=content["index_version"],
        )


def _key(key: tuple[Group, Phase]) -> tuple[str, str, str]:
    return key[0].model, key[0].trait, key[1]


def _plain(parts: GroupParts) -> list[list[Any]]:
    return [[*_key(key), [[r.key, r.task_id] for r in refs]] for key, refs in parts.items()]


def _parts(plain: Sequence[Any]) -> dict[tuple[Group, Phase], list[PartRef]]:
    return {(Group(m, t), p): [PartRef(*ref) for ref in refs] for m, t, p, refs in plain}
