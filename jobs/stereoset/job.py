"""``job: stereoset``: the bias data set scored with and without steering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from jobs.data import OFFICIAL
from jobs.results import Results
from jobs.scoring.job import SIDE_GROWS, ScoredJob
from jobs.scoring.output import with_held_out
from jobs.stereoset import report
from jobs.stereoset.groups import AXES
from jobs.stereoset.output import StereoSetOutput
from jobs.stereoset.resolve import Sweep, recorded_identity, resolve
from jobs.stereoset.spec import StereoSetSpec
from jobs.stereoset.workflow import StereoSetWorkflow
from jobs.sweeps.job import Files, Growth, Shipment
from jobs.sweeps.report import ReportOptions


class StereoSetJob(ScoredJob[StereoSetSpec, Sweep, StereoSetOutput]):
    """See ``Job``."""

    name = "stereoset"
    spec_type = StereoSetSpec
    output_type = StereoSetOutput
    axes = AXES
    axis_keys: ClassVar[Mapping[str, str]] = {
        "split": "data.splits",
        "bias_type": "data.bias_types",
    }
    grows: ClassVar[Mapping[str, Growth]] = {
        "steering.layers": Growth("layers"),
        "steering.coeffs": Growth("coeffs"),
        "data.bias_types": Growth("bias types"),
        "data.splits": Growth("splits"),
        "vectors.held_out": Growth("held-out vectors"),
        "nulls": Growth("nulls"),
        "models": Growth("models"),
        **SIDE_GROWS,
    }

    def resolve(
        self, spec: StereoSetSpec, device: str | None, output: StereoSetOutput | None
    ) -> Sweep:
        """See ``Job``."""
        sweep = resolve(spec, device)
        return sweep if output is None else with_held_out(sweep, output)

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

    def results(self, output: StereoSetOutput) -> Results:
        """See ``Job``."""
        from jobs.stereoset.results import StereoSetResults  # pandas takes a second to load

        return StereoSetResults(output)

    def shipment(self, spec: StereoSetSpec) -> Shipment:
        """See ``Job``; data and vectors stay where they are."""
        shipped = super().shipment(spec)
        if spec.data.path == OFFICIAL:  # the head fetches it
            return shipped
        return replace(shipped, head_files=[("data.path", spec.data.path), *shipped.head_files])
