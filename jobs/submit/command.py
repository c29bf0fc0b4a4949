"""Submitting a sweep once, and seeing that it starts."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from cluster.environment import needs, plain_variables
from cluster.storage import StorageSpec
from cluster.submission import Job, JobRequest, JobServer, JobTakenError, ServerAwayError
from jobs import __version__
from jobs.console import say
from jobs.spec import JobSpec
from jobs.submit import follow
from jobs.submit.package import write_package
from jobs.submit.travel import SPEC_NAME, Travelling, travelling
from steersweep.errors import UserError

_STOP_S = 30
"""So long the driver may take to end when its job is stopped; Ray's own limit is 3 s."""

_NUM_TRIES = 5


@dataclass(frozen=True)
class SubmitOptions:
    """How a sweep is submitted.

    Attributes:
        wait: until it has ended, until it is healthy, or not at all.
        env: ``NAME=VALUE``, none of them a secret.
        needs: names of variables that every node must have.
        with_pip: let the nodes install what this package depends on.
        driver_cpus: that the driver asks Ray for; with 0 it runs on the head.
    """

    address: str
    new: bool = False
    figures: bool = True
    wait: Literal["end", "start", "no"] = "start"
    env: Sequence[str] = ()
    needs: Sequence[str] = ()
    with_pip: bool = False
    driver_cpus: float = 0.0


def submit(spec: JobSpec, options: SubmitOptions) -> int:
    """Submit a sweep, or find the job that runs it already; returns the exit code.

    Raises:
        UserError: the user must change something.
        ClusterError: the run itself failed.
    """
    sweep = travelling(spec)
    output = spec.storage_spec()
    variables = {
        "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S),
        **plain_variables(options.env),
        **needs(options.needs),
    }
    pip = requirements() if options.with_pip else ()
    server = JobServer(options.address)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "steersweep.zip"
        write_package(package, sweep)
        job_id = _start(server, output, sweep, options, package, variables, pip)
    _tell(server, job_id, output, new=options.new)
    if options.wait == "no":
        return 0
    try:
        return _watch(server, job_id, to_the_end=options.wait == "end")
    except KeyboardInterrupt:
        say(f"job {job_id} keeps running; submit again to follow it")
        return 130


def requirements() -> tuple[str, ...]:
    """What this package depends on, but for Ray, which is the cluster's own.

    Raises:
        UserError: this package is not installed here, so that nothing is known of it.
    """
    try:
        listed = importlib.metadata.requires("steersweep") or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "--pip needs steersweep to be installed here; pip install it first"
        ) from None
    parsed = [Requirement(text) for text in listed]
    return tuple(str(r) for r in parsed if r.marker is None and r.name != "ray")


def job_name(output: StorageSpec, *, new: bool) -> str:
    """What the ids of all jobs for an output begin with."""
    place = f"{output.s3_endpoint_url or ''} {output.uri}"
    slug = re.sub(r"[^A-Za-z0-9]+", "-", output.uri.rpartition("/")[2]).strip("-")[:30]
    digest = hashlib.sha256(place.encode()).hexdigest()[:10]
    return "-".join(filter(None, ("steersweep", slug, digest, "new" if new else "")))


def _start(
    server: JobServer,
    output: StorageSpec,
    sweep: Travelling,
    options: SubmitOptions,
    package: Path,
    variables: dict[str, str],
    pip: tuple[str, ...],
) -> str:
    """The id of the job that runs the sweep, started here or before."""
    name = job_name(output, new=options.new)
    digest = hashlib.sha256(sweep.spec.encode()).hexdigest()
    command = ["exec", "python", "-m", "jobs.cli", "run", SPEC_NAME]
    command += ["--new"] if options.new else []
    command += [] if options.figures else ["--no-figures"]
    for _ in range(_NUM_TRIES):
        try:
            found = _attempts(server, name)
            running = [job for job in found.values() if not job.is_ended]
            if running and not options.new:
                return _joined(running[0], digest)
            request = JobRequest(
                id=f"{name}-{max(found, default=0) + 1}",
                entrypoint=shlex.join(command),
                package=package,
                metadata={"steersweep": __version__, "output": output.uri, "spec": digest},
                env_vars=variables,
                pip=pip,
                num_cpus=options.driver_cpus,
            )
            server.submit(request)
            return request.id
        except JobTakenError:  # another submitter was faster: look again
            continue
        except ServerAwayError as error:
            raise UserError(f"{error}; submit again (the job will only run once)") from error
    raise UserError(f"others keep submitting jobs named {name}; try again")


def _attempts(server: JobServer, name: str) -> dict[int, Job]:
    """Every job for an output that the cluster remembers, by its number."""
    found = {}
    for job in server.jobs():
        match = re.fullmatch(rf"{re.escape(name)}-(\d+)", job.id)
        if match:
            found[int(match[1])] = job
    return found


def _joined(job: Job, digest: str) -> str:
    if job.metadata.get("spec") != digest:
        raise UserError(
            f"job {job.id} is {job.status.lower()} with another spec for this output; wait for it "
            "to end, stop it, or choose another output"
        )
    say(f"job {job.id} is already {job.status.lower()}; nothing was started")
    return job.id


def _tell(server: JobServer, job_id: str, output: StorageSpec, *, new: bool) -> None:
    """The job's id, and a command for each thing that can be done about it."""
    place = shlex.quote(output.uri)
    if output.s3_endpoint_url:
        place += f" --endpoint-url {shlex.quote(output.s3_endpoint_url)}"
    to_job = f"--address {shlex.quote(server.address)} {job_id}"
    say(f"job {job_id}")
    if new:
        say("  watch:   steersweep status URI --watch (the output is printed below)")
    else:
        say(f"  watch:   steersweep status {place} --watch")
    say(f"  log:     ray job logs --follow {to_job}")
    say(f"  stop:    ray job stop {to_job}")
    say("  resume:  submit it again")


def _watch(server: JobServer, job_id: str, *, to_the_end: bool) -> int:
    follower = follow.Follower(server, job_id)
    job = follower.until_ended() if to_the_end else follower.until_healthy(follow.START_S)
    if job.is_ended:
        return follower.exit_code(job)
    if not follower.is_healthy:
        waited = f"no replica is ready after {follow.START_S:.0f} s"
        say(f"job {job_id} is {job.status.lower()}, and {waited}")
    return 0
