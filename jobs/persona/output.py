"""What a persona run keeps in its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from jobs.persona.index import Parts
from jobs.persona.stored import parts_of
from jobs.sweeps.certificate_file import Checked
from jobs.sweeps.job import StoredOutput
from jobs.sweeps.parts import StoredParts

PART_FOLDERS = ("answers/", "scores/", "sums/", "projections/")


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
