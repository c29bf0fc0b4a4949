"""``steersweep plan``: what a run has left to do; the same options and outputs for all jobs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.console import Verbosity, print_json, print_table, say
from jobs.spec import JobSpec
from jobs.sweeps.job import AnyJob, Files, StoredOutput, Sweep, Workflow
from jobs.sweeps.same_sweep import check_same_sweep
from jobs.sweeps.steps import Count, Stage, Steps, by_stage
from jobs.words import percent
from steersweep.errors import UserError

PLAN_VERSION = 1


@dataclass(frozen=True)
class PlanOptions:
    """How a sweep is planned.

    Attributes:
        device: name of an accelerator with stated rates; None: this machine.
        replicas: how many; None: the spec's, or on this machine as many as there is room for.
        share: fraction of the device's stated rate to assume; None: the default.
        seconds: for measuring each model on this machine; 0: do not measure.
        json_file: file for the plan.
    """

    device: str | None = None
    replicas: int | None = None
    share: float | None = None
    seconds: float = 20.0
    json_file: str | None = None

    def check(self) -> None:
        """Raise UserError for what cannot be meant."""
        if self.device is None and self.share is not None:
            raise UserError("--share needs a --device")
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(f"--share must be above 0 and at most 1, got {self.share:g}")
        if self.replicas is not None and self.replicas < 1:
            raise UserError(f"--replicas must be at least 1, got {self.replicas}")
        if not 0 <= self.seconds < float("inf"):
            raise UserError(f"--seconds must be at least 0, got {self.seconds:g}")
        path = self.json_path
        if path is not None and not path.parent.is_dir():
            raise UserError(
                f"--json-file {self.json_file}: the folder {path.parent} does not exist"
            )

    @property
    def json_path(self) -> Path | None:
        """Where the plan is written."""
        return None if self.json_file is None else Path(self.json_file).expanduser()


class Estimate(ABC):
    """What a run has left to do."""

    @abstractmethod
    def show(self) -> None:
        """Print it: one line with ``--quiet``, tables with ``--verbose``."""

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """Plain data, with ``plan_version``."""


@dataclass(frozen=True)
class Counted(Estimate):
    """Items and tasks by stage and group: the estimate of a job that has no better one.

    Attributes:
        counts: as ``Steps.counts``. What follows from results that are not there yet is not in it.
        totals: items of each stage, as far as they can be known.
    """

    output: str
    counts: Mapping[tuple[Stage, str], Count]
    totals: Mapping[Stage, int]

    def show(self) -> None:
        """See ``Estimate``."""
        counts = by_stage(self.counts)
        done = {stage: counts.get(stage, Count()).done for stage in self.totals}
        left = [
            f"{total - done[stage]:,} of {total:,} {stage.noun} left for {stage.verb}"
            for stage, total in self.totals.items()
            if done[stage] < total
        ]
        say("; ".join(left) or f"Nothing is left to run in {self.output}.", at=Verbosity.QUIET)
        rows = [
            [str(stage), group, f"{of.done:,} of {of.known:,}", percent(of.done, of.known)]
            for (stage, group), of in self.counts.items()
        ]
        say(at=Verbosity.VERBOSE)
        print_table("", ["stage", "group", "done", ""], rows, at=Verbosity.VERBOSE)

    def as_json(self) -> dict[str, Any]:
        """See ``Estimate``."""
        return {
            "plan_version": PLAN_VERSION,
            "output": self.output,
            "totals": {str(stage): total for stage, total in self.totals.items()},
            "stages": [
                {
                    "stage": str(stage),
                    "group": group,
                    "num_items": of.known,
                    "num_items_done": of.done,
                    "num_tasks": of.tasks_known,
                    "num_tasks_done": of.tasks_done,
                }
                for (stage, group), of in self.counts.items()
            ],
        }


def counted(job: AnyJob, spec: JobSpec) -> Counted:
    """The steps of a sweep, counted: what the output holds, and what follows from it, is done.

    Raises:
        UserError: what ``steersweep run`` would refuse, too.
    """
    storage = spec.storage_spec().open()
    storage.check_reachable()
    output = job.open(StoredOutput.read(storage))
    sweep = job.resolve(spec, None, output)
    check_same_sweep(job, sweep, output)
    workflow, steps = begun(job, sweep, output)
    return Counted(storage.uri, steps.counts, workflow.totals())


def begun(job: AnyJob, sweep: Sweep, output: StoredOutput) -> tuple[Workflow, Steps]:
    """A sweep's workflow in an output, and how far its steps have come; nothing is written.

    Raises:
        UserError: damaged parts.
    """
    # What these files hold follows from parts; only a run releases them.
    workflow = job.workflow(sweep, output, Files(output.storage))
    steps = Steps(workflow.stored)
    steps.begin(workflow.steps())
    return workflow, steps


def tell(estimate: Estimate, options: PlanOptions, *, prints_json: bool) -> None:
    """Print an estimate, and write it to the file that the options name."""
    estimate.show()
    content = estimate.as_json()
    if prints_json:
        print_json(content)
    if (path := options.json_path) is not None:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        path.write_text(text, encoding="utf-8")
