"""What a persona run keeps in its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from jobs.persona.index import Group as TraitGroup
from jobs.persona.index import Parts
from jobs.persona.side_effects import inventory_of, kind_of_vectors
from jobs.persona.stored import parts_of
from jobs.scoring.groups import Group
from jobs.scoring.inventory import Inventory
from jobs.scoring.manifest import from_tables
from jobs.scoring.plan import PlannedTask
from jobs.scoring.tables import SIDE_EFFECTS, SIDE_EFFECTS_BASELINE
from jobs.side_effects.stored import StoredSets
from jobs.sweeps.certificate_file import Checked
from jobs.sweeps.job import StoredOutput
from jobs.sweeps.parts import StoredParts

_SIDE_FOLDERS = (f"{SIDE_EFFECTS}/", f"{SIDE_EFFECTS_BASELINE}/")
PART_FOLDERS = ("answers/", "scores/", "sums/", "projections/", *_SIDE_FOLDERS)


class PersonaOutput(StoredOutput):
    """An output of ``job: persona``; each of these is read when it is first asked for."""

    @cached_property
    def index(self) -> Parts:
        """The parts that the sweep consists of, as the last session wrote it down.

        Raises:
            UserError: ``index.json`` is damaged.
        """
        return Parts.read(self.storage)

    @cached_property
    def parts(self) -> StoredParts:
        """Every part, each held against its digest: they are small, and much follows from them."""
        parts = StoredParts(self.storage, PART_FOLDERS, reads_rows=True)
        parts.check_all()
        return parts

    @property
    def spec(self) -> Mapping[str, Any]:
        """The recorded spec; empty if ``run.json`` is lost."""
        spec: Mapping[str, Any] = (self.record or {}).get("spec", {})
        return spec

    @cached_property
    def manifest(self) -> Sequence[Any]:
        """The generations of planned tasks of data sets."""
        return self.ledger.read_manifest()

    @cached_property
    def planned(self) -> list[PlannedTask]:
        """Every task of data sets that was ever planned here, also those that no longer count."""
        return from_tables(self.manifest)

    @property
    def counted(self) -> list[PlannedTask]:
        """The tasks of data sets that the sweep consists of."""
        named = set(self.index.side_effects)
        return [task for task in self.planned if task.plan_id in named]

    @cached_property
    def inventory(self) -> Inventory:
        """What is planned and done of data sets."""
        return inventory_of(self.storage, self.counted, self.index)

    @property
    def side_effects(self) -> StoredSets:
        """The rows of data sets, as a summary of side effects takes them (``measured``)."""
        return StoredSets(self)

    def vectors_elsewhere(self, group: Group) -> str:
        """What a trait's vectors, which steer data sets, are made of: ``in_sample`` or ``file``.

        ``in_sample`` stands for contrasted answers, also before they are there.
        """
        return kind_of_vectors(self.index.vectors.get(TraitGroup(group.model, *group.key), ""))

    @property
    def certified(self) -> Checked:
        """What its certificates are about, in words."""
        words = Checked(item="answer", unit=" in probability", choice="changed token")
        spec = (self.record or {}).get("spec", {})
        if spec and "certificate" not in spec:
            return replace(words, why_not="an earlier version of steersweep wrote these answers")
        return words

    def footers(self) -> dict[str, list[Mapping[str, str]]]:
        """By model, the metadata of each part of answers, which holds its certificate.

        Raises:
            UserError: a damaged part.
        """
        keys = {
            ref.key: (group.model, ref.task_id)
            for (group, _), refs in parts_of(self.storage, self.index, "answers").items()
            for ref in refs
        }
        parts = StoredParts(self.storage, ("answers/",))
        parts.done_of({task_id: [key] for key, (_, task_id) in keys.items()})
        found: dict[str, list[Mapping[str, str]]] = {}
        for key, (model, _) in keys.items():
            if key in parts.checked:
                found.setdefault(model, []).append(parts.checked[key].metadata)
        return found
