"""What the ``Job``s that score candidates have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from jobs.scoring import status, verify
from jobs.scoring.batch_size import TUNING
from jobs.scoring.forecast.command import plan
from jobs.scoring.inventory import PART_FOLDERS
from jobs.scoring.measured import TEXTS
from jobs.scoring.output import (
    ScoredOutput,
    check_draws,
    fewer_draws,
    held_values,
    is_of_another_sweep,
    wanted_values,
)
from jobs.scoring.spec import ScoredSpec
from jobs.scoring.sweep import AnySweep
from jobs.scoring.workflow import ScoredWorkflow
from jobs.sweeps.estimate import Estimate, PlanOptions
from jobs.sweeps.job import Files, Growth, Job, Shipment, StoredOutput
from jobs.sweeps.session import DriverState

SpecT = TypeVar("SpecT", bound=ScoredSpec)
SweepT = TypeVar("SweepT", bound=AnySweep)
OutputT = TypeVar("OutputT", bound=ScoredOutput)


SIDE_GROWS: Mapping[str, Growth] = {
    "side_effects": Growth("data sets of side effects"),
    "side_effects.cells.layers": Growth("their layers"),
    "side_effects.cells.coeffs": Growth("their coefficients"),
    "side_effects.transfer": Growth("transfer"),
    "prompts": Growth("prompts"),
}
"""Of ``Job.grows``: what every job that scores candidates can measure besides its own data."""


class ScoredJob(Job[SpecT, SweepT, OutputT]):
    """See ``Job``. ``resolve`` ends with ``with_held_out``, if there is an output.

    Attributes:
        axes: of its sweeps; the plan of an output has a column for each.
        axis_keys: by axis of the sweep, the key of the spec that has its values, if one has.
    """

    axes: ClassVar[tuple[str, ...]]
    axis_keys: ClassVar[Mapping[str, str]]
    owns = ("manifest/", *PART_FOLDERS, "vectors/", TUNING, TEXTS)
    marker = "manifest/"

    def has_run(self, output: StoredOutput) -> bool:
        """See ``Job``; other jobs that score candidates keep a plan as well, with other axes."""
        tables = output.ledger.read_manifest()
        return any(set(self.axes) <= set(table.column_names) for table in tables)

    @abstractmethod
    def workflow(self, sweep: SweepT, output: OutputT, files: Files) -> ScoredWorkflow[SweepT]:
        """See ``Job``."""

    def changes(self, sweep: SweepT, output: OutputT) -> list[str]:
        """See ``Job``; the plan of an output tells whose it is, even if its record is lost."""
        changes = super().changes(sweep, output) + fewer_draws(sweep, output.planned)
        if not changes and is_of_another_sweep(sweep, output):
            changes.append("a key that cannot be named, as run.json is lost")
        if not changes:
            check_draws(sweep, output)
        return changes

    def held(self, output: OutputT) -> Mapping[str, Iterable[Any]]:
        """See ``Job``."""
        return held_values(output.planned, self.axis_keys)

    def wanted(self, sweep: SweepT) -> Mapping[str, Iterable[Any]]:
        """See ``Job``."""
        return wanted_values(sweep, self.axis_keys)

    def status(self, output: OutputT, driver: DriverState) -> Mapping[str, Any]:
        """See ``Job``."""
        return status.status(output, driver)

    def verify(self, output: OutputT, num_rows: int, seed: int) -> Mapping[str, Any]:
        """See ``Job``."""
        return verify.verified(self, output, num_rows, seed)

    def plan(self, spec: SpecT, options: PlanOptions) -> Estimate:
        """See ``Job``."""
        return plan(self, spec, options)

    def shipment(self, spec: SpecT) -> Shipment:
        """See ``Job``; files of vectors and of data sets stay where they are."""
        shipped = super().shipment(spec)
        file = spec.vectors.file
        files = [*([] if file is None else [("vectors.file", file)]), *spec.side_effects.files]
        return Shipment(shipped.document, models=shipped.models, head_files=files)


AnyScoredJob = ScoredJob[Any, Any, Any]
