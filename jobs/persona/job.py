"""``job: persona``: trait directions found, steered with, judged, monitored and compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from jobs.persona import report, status, verify
from jobs.persona.earlier import ids_of, refuse_other_sweep, refuse_unfinished, rows_per_task_of
from jobs.persona.forecast import plan
from jobs.persona.index import INDEX_KEY
from jobs.persona.output import PART_FOLDERS, PersonaOutput
from jobs.persona.resolve import IDS_VERSION, PersonaSweep, resolve
from jobs.persona.spec import PersonaSpec
from jobs.persona.traits import read_trait
from jobs.persona.workflow import PersonaWorkflow
from jobs.resources import EMBEDDED, local_path
from jobs.results import Results
from jobs.scoring.job import SIDE_GROWS
from jobs.scoring.measured import TEXTS
from jobs.scoring.output import held_side_effects, wanted_side_effects
from jobs.sweeps.estimate import Estimate, PlanOptions
from jobs.sweeps.job import Files, Growth, Job, Shipment
from jobs.sweeps.report import ReportOptions
from jobs.sweeps.session import DriverState

_SIDE_KEYS = ("side_effects", "side_effects.cells.layers", "side_effects.cells.coeffs")


class PersonaJob(Job[PersonaSpec, PersonaSweep, PersonaOutput]):
    """See ``Job``."""

    name = "persona"
    spec_type = PersonaSpec
    output_type = PersonaOutput
    owns = (INDEX_KEY, *PART_FOLDERS, "judge/", "vectors/", "manifest/", TEXTS)
    marker = INDEX_KEY
    # What a smaller grid leaves out stays in storage, and the index no longer names it.
    grows: ClassVar[Mapping[str, Growth]] = {
        "models": Growth("models", keeps=False),
        "traits": Growth("traits", keeps=False),
        "steering.layers": Growth("layers", keeps=False),
        "steering.coeffs": Growth("coeffs", keeps=False),
        "steering.positions": Growth("positions", keeps=False),
        **{key: SIDE_GROWS[key] for key in _SIDE_KEYS},
    }

    def resolve(
        self, spec: PersonaSpec, device: str | None, output: PersonaOutput | None
    ) -> PersonaSweep:
        """See ``Job``; an output goes on with the ids with which it began."""
        if output is None:
            return resolve(spec, device)
        return resolve(spec, device, ids_of(output), rows_per_task_of(output))

    def changes(self, sweep: PersonaSweep, output: PersonaOutput) -> list[str]:
        """See ``Job``; outputs of earlier ids take neither changes nor growth."""
        refuse_unfinished(output, sweep.ids)
        if sweep.ids < IDS_VERSION:
            refuse_other_sweep(output, sweep)
            return []
        return super().changes(sweep, output)

    def held(self, output: PersonaOutput) -> Mapping[str, Iterable[Any]]:
        """See ``Job``; of the tasks that the index names, as their rows stay."""
        held = held_side_effects(output.counted)
        return {key: held[key] for key in _SIDE_KEYS}

    def wanted(self, sweep: PersonaSweep) -> Mapping[str, Iterable[Any]]:
        """See ``Job``."""
        wanted = {} if sweep.measuring is None else wanted_side_effects(sweep.measuring)
        return {key: wanted.get(key, ()) for key in _SIDE_KEYS}

    def workflow(self, sweep: PersonaSweep, output: PersonaOutput, files: Files) -> PersonaWorkflow:
        """See ``Job``."""
        return PersonaWorkflow(sweep, output, files)

    def report(self, output: PersonaOutput, options: ReportOptions) -> Mapping[str, Any]:
        """See ``Job``."""
        return report.report(output, options)

    def status(self, output: PersonaOutput, driver: DriverState) -> Mapping[str, Any]:
        """See ``Job``."""
        return status.status(output, driver)

    def verify(self, output: PersonaOutput, num_rows: int, seed: int) -> Mapping[str, Any]:
        """See ``Job``."""
        return verify.verified(self, output, num_rows, seed)

    def plan(self, spec: PersonaSpec, options: PlanOptions) -> Estimate:
        """See ``Job``."""
        return plan(self, spec, options)

    def results(self, output: PersonaOutput) -> Results:
        """See ``Job``."""
        from jobs.persona.results import PersonaResults  # pandas takes a second to load

        return PersonaResults(output)

    def shipment(self, spec: PersonaSpec) -> Shipment:
        """See ``Job``; trait files travel, vectors stay where they are."""
        shipped = super().shipment(spec)
        document = {**shipped.document, "traits": {}}
        files: dict[str, bytes] = {}
        for name, trait in spec.traits.items():
            named = dict(shipped.document["traits"][name])
            for key, path in (("path", trait.path), ("steered", trait.steered)):
                if path is None or path.startswith(EMBEDDED) or Path(path).is_absolute():
                    continue
                here = Path(local_path(path))
                read_trait(here, name)  # refuses what the run would refuse
                named[key] = f"traits/{name}-{key}.json"
                files[named[key]] = here.read_bytes()
            document["traits"][name] = named
        judge = spec.judge.local_model
        return Shipment(
            document,
            files,
            models=[*shipped.models, *([] if judge is None else [("judge.path", judge.path)])],
            head_files=[
                (f"traits.{name}.vectors", trait.vectors)
                for name, trait in spec.traits.items()
                if trait.vectors is not None
            ]
            + spec.side_effects.files,
        )
