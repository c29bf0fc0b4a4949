"""``job: choices``: any multiple-choice data scored with and without steering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from jobs.choices import report
from jobs.choices.output import ChoicesOutput
from jobs.choices.resolve import AXES, ChoicesSweep, resolve
from jobs.choices.spec import ChoicesSpec
from jobs.choices.workflow import ChoicesWorkflow
from jobs.results import Results
from jobs.scoring.job import SIDE_GROWS, ScoredJob
from jobs.scoring.output import with_held_out
from jobs.sweeps.job import Files, Growth, Shipment
from jobs.sweeps.report import ReportOptions


class ChoicesJob(ScoredJob[ChoicesSpec, ChoicesSweep, ChoicesOutput]):
    """See ``Job``."""

    name = "choices"
    spec_type = ChoicesSpec
    output_type = ChoicesOutput
    axes = AXES
    axis_keys: ClassVar[Mapping[str, str]] = {}
    grows: ClassVar[Mapping[str, Growth]] = {
        "steering.layers": Growth("layers"),
        "steering.coeffs": Growth("coeffs"),
        "vectors.held_out": Growth("held-out vectors"),
        "nulls": Growth("nulls"),
        "models": Growth("models"),
        **SIDE_GROWS,
    }
    reasons: ClassVar[Mapping[str, str]] = {
        "data.frame": "it decides the texts that are scored",
        "data.candidate_orders": "it decides which rows there are",
        "data.chat": "it decides the texts that are scored",
        "contrast.positive": "it decides what vectors point to",
        "contrast.negative": "it decides what vectors point away from",
        "contrast.by": "it decides which examples share a vector",
    }

    def resolve(
        self, spec: ChoicesSpec, device: str | None, output: ChoicesOutput | None
    ) -> ChoicesSweep:
        """See ``Job``."""
        sweep = resolve(spec, device)
        return sweep if output is None else with_held_out(sweep, output)

    def workflow(self, sweep: ChoicesSweep, output: ChoicesOutput, files: Files) -> ChoicesWorkflow:
        """See ``Job``."""
        return ChoicesWorkflow(sweep, output, files)

    def report(self, output: ChoicesOutput, options: ReportOptions) -> Mapping[str, Any]:
        """See ``Job``."""
        return report.report(output, options)

    def results(self, output: ChoicesOutput) -> Results:
        """See ``Job``."""
        from jobs.choices.results import ChoicesResults  # pandas takes a second to load

        return ChoicesResults(output)

    def shipment(self, spec: ChoicesSpec) -> Shipment:
        """See ``Job``; a data file stays where it is."""
        shipped, data = super().shipment(spec), spec.data
        if not data.is_file:
            return shipped
        return replace(shipped, head_files=[("data.path", data.path), *shipped.head_files])
