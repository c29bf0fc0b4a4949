"""The commands on sweeps and outputs of any job; each goes through the registry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from cluster.storage import Storage
from jobs.console import clear, link, print_json
from jobs.spec import JobSpec
from jobs.sweeps import estimate, runner
from jobs.sweeps.estimate import PlanOptions
from jobs.sweeps.job import StoredOutput
from jobs.sweeps.registry import job_of, job_of_output
from jobs.sweeps.report import ReportOptions
from jobs.sweeps.session import DriverState
from steersweep.errors import UserError


def run(spec: JobSpec, *, new: bool, figures: bool) -> int:
    """Run a sweep; see ``runner.run``."""
    return runner.run(job_of(spec), spec, new=new, figures=figures)


def plan(spec: JobSpec, options: PlanOptions, *, prints_json: bool = False) -> dict[str, Any]:
    """Print what a sweep has left to do, and return it as the plain data of ``plan --json``.

    Raises:
        UserError: what ``steersweep run`` would refuse, too.
    """
    options.check()
    found = job_of(spec).plan(spec, options)
    estimate.tell(found, options, prints_json=prints_json)
    return found.as_json()


def watch(storage: Storage, every_s: float) -> None:
    """Print the status again and again, until the run ends."""
    while True:
        clear()
        if not status(storage)["driver"]["is_running"]:
            return
        time.sleep(every_s)


def status(storage: Storage, *, prints_json: bool = False) -> dict[str, Any]:
    """Print how far a run has come, and return it as the plain data of ``status --json``.

    Raises:
        UserError: no run at this place, or damaged parts.
    """
    output = StoredOutput.read(storage)
    driver = DriverState.of(storage, output.record or {})
    job = job_of_output(output)
    content = {
        "status_version": 1,
        "output": storage.uri,
        "job": job.name,
        "driver": driver.as_json(),
        **job.status(job.open(output), driver),
    }
    if prints_json:
        print_json(content)
    return content


def report(
    storage: Storage,
    *,
    figures: bool,
    others: Sequence[Storage] = (),
    by: str | None = None,
    pick: str | None = None,
    prints_json: bool = False,
) -> None:
    """Make a run's report from its results alone.

    Args:
        figures: whether to draw them.
        others: other runs, to compare with this one.
        by: columns that the printed result separates, with commas between them.
        pick: a condition on a change, by which steerings are chosen.
        prints_json: whether to print the result as JSON, too.

    Raises:
        UserError: no run at this place, damaged parts, nothing to compare with, or ``by`` names no
            column.
    """
    output = StoredOutput.read(storage)
    job = job_of_output(output)
    for other in others:
        theirs = job_of_output(StoredOutput.read(other))
        if theirs.name != job.name:
            raise UserError(
                f"{other.uri} is of job {theirs.name} and {storage.uri} of job {job.name}; compare "
                "runs of the same job"
            )
    options = ReportOptions(figures=figures, others=others, by=by, pick=pick)
    content = job.report(job.open(output), options)
    if prints_json:
        print_json(
            {
                "report_version": 1,
                "output": storage.uri,
                "job": job.name,
                "page": link(storage.uri_of("report.html")),
                "tables": storage.uri_of("summary"),
                "figures": storage.uri_of("figures") if figures else None,
                **content,
            }
        )


def verify(storage: Storage, num_rows: int, seed: int, *, prints_json: bool = False) -> int:
    """Recompute drawn rows the slow way and compare; 0 within the tolerance, 1 not.

    Args:
        num_rows: of each model.
        prints_json: whether to print the outcome as JSON, too.

    Raises:
        UserError: no run there, nothing finished, model or data changed since, or not where they
        were.
    """
    output = StoredOutput.read(storage)
    job = job_of_output(output)
    content = job.verify(job.open(output), num_rows, seed)
    if prints_json:
        known = {"verify_version": 1, "output": storage.uri, "job": job.name, "seed": seed}
        print_json({**known, **content})
    return 0 if content["verdict"] != "broken" else 1
