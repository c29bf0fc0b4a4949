"""``job: stereoset``: the bias data set scored with and without steering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from jobs.results import Results
from jobs.stereoset import report, status, verify
from jobs.stereoset.batch_size import TUNING
from jobs.stereoset.forecast.command import plan
from jobs.stereoset.inventory import PART_FOLDERS
from jobs.stereoset.output import (
    StereoSetOutput,
    check_draws,
    fewer_draws,
    held_values,
    is_of_another_sweep,
    wanted_values,
    with_held_out,
)
from jobs.stereoset.resolve import Sweep, recorded_identity, resolve
from jobs.stereoset.spec import StereoSetSpec
from jobs.stereoset.workflow import StereoSetWorkflow
from jobs.sweeps.estimate import Estimate, PlanOptions
from jobs.sweeps.job import Files, Growth, Job, Shipment
from jobs.sweeps.report import ReportOptions
from jobs.sweeps.session import DriverState


class StereoSetJob(Job[StereoSetSpec, Sweep, StereoSetOutput]):
    """See ``Job``."""

    name = "stereoset"
    spec_type = StereoSetSpec
    output_type = StereoSetOutput
    owns = ("manifest/", *PART_FOLDERS, "vectors/", TUNING)
    marker = "manifest/"
    grows: ClassVar[Mapping[str, Growth]] = {
        "steering.layers": Growth("layers"),
        "steering.coeffs": Growth("coeffs"),
        "data.bias_types": Growth("bias types"),
        "data.splits": Growth("splits"),
        "vectors.held_out": Growth("held-out vectors"),
        "nulls": Growth("nulls"),
        "models": Growth("models"),
    }

    def resolve(
        self, spec: StereoSetSpec, device: str | None, output: StereoSetOutput | None
    ) -> Sweep:
        """See ``Job``."""
        sweep = resolve(spec, device)
        return sweep if output is None else with_held_out(sweep, output)

    def changes(self, sweep: Sweep, output: StereoSetOutput) -> list[str]:
        """See ``Job``; the plan of an output tells whose it is, even if its record is lost."""
        changes = super().changes(sweep, output) + fewer_draws(sweep, output.planned)
        if not changes and is_of_another_sweep(sweep, output):
            changes.append("a key that cannot be named, as run.json is lost")
        if not changes:
            check_draws(sweep, output)
        return changes

    def held(self, output: StereoSetOutput) -> Mapping[str, Iterable[Any]]:
        """See ``Job``."""
        return held_values(output.planned)

    def wanted(self, sweep: Sweep) -> Mapping[str, Iterable[Any]]:
        """See ``Job``."""
        return wanted_values(sweep)

    def recorded_identity(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Job``."""
        return recorded_identity(record)

    def workflow(self, sweep: Sweep, output: StereoSetOutput, files: Files) -> StereoSetWorkflow:
        """See ``Job``."""
        return StereoSetWorkflow(sweep, output, files)

    def report(self, output: StereoSetOutput, options: ReportOptions) -> Mapping[str, Any]:
        """See ``Job``."""
        return report.report(output, options)

    def show(self, output: StereoSetOutput) -> bool:
        """See ``Job``."""
        return report.show(output.storage)

    def status(self, output: StereoSetOutput, driver: DriverState) -> Mapping[str, Any]:
        """See ``Job``."""
        return status.status(output, driver)

    def verify(self, output: StereoSetOutput, num_rows: int, seed: int) -> Mapping[str, Any]:
        """See ``Job``."""
        return verify.verified(self, output, num_rows, seed)

    def plan(self, spec: StereoSetSpec, options: PlanOptions) -> Estimate:
        """See ``Job``."""
        return plan(self, spec, options)

    def results(self, output: StereoSetOutput) -> Results:
        """See ``Job``."""
        from jobs.stereoset.results import StereoSetResults  # pandas takes a second to load

        return StereoSetResults(output)

    def shipment(self, spec: StereoSetSpec) -> Shipment:
        """See ``Job``; data and vectors stay where they are."""
        shipped = super().shipment(spec)
        files = [("data.path", spec.data.path)]
        if spec.vectors.file is not None:
            files.append(("vectors.file", spec.vectors.file))
        return Shipment(shipped.document, models=shipped.models, head_files=files)
