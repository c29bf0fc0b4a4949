"""The jobs by name. Every command goes from a spec or an output to its job here.

This is the only module that knows which jobs there are. A job is imported when it is first used, as
its libraries take seconds to load; only the spec types are needed to read a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.storage import Storage, StorageSpec
from jobs.resources import embedded_specs
from jobs.spec import JobSpec, load_spec_of_any_job
from jobs.sweeps.job import AnyJob, StoredOutput
from steersweep.errors import UserError

if TYPE_CHECKING:
    from jobs.results import Results

_SPECS: dict[str, str] = {
    "stereoset": "jobs.stereoset.spec:StereoSetSpec",
    "choices": "jobs.choices.spec:ChoicesSpec",
    "persona": "jobs.persona.spec:PersonaSpec",
}
_JOBS: dict[str, str | AnyJob] = {
    "stereoset": "jobs.stereoset.job:StereoSetJob",
    "choices": "jobs.choices.job:ChoicesJob",
    "persona": "jobs.persona.job:PersonaJob",
}
"""``module:class`` of each job, or the job itself once it was used."""
_TYPES: dict[str, type[JobSpec]] = {}


def names() -> tuple[str, ...]:
    """The names of all jobs."""
    return tuple(_JOBS)


def spec_types() -> Mapping[str, type[JobSpec]]:
    """The sweep file of each job, by its name."""
    for name, target in _SPECS.items():
        if name not in _TYPES:
            _TYPES[name] = _imported(target)
    return _TYPES


def spec_type(name: str) -> type[JobSpec]:
    """The sweep file of a job; UserError for a name that is none."""
    if name not in spec_types():
        raise UserError(f"--job must be one of {', '.join(names())}, got {name!r}")
    return spec_types()[name]


def job_named(name: str) -> AnyJob:
    """The job of that name; KeyError if there is none."""
    job = _JOBS[name]
    if isinstance(job, str):
        job = _JOBS[name] = _imported(job)()
    return job


def job_of(spec: JobSpec) -> AnyJob:
    """The job of a spec."""
    return job_named(spec.job)


def job_of_output(output: StoredOutput) -> AnyJob:
    """The job whose run an output holds; if ``run.json`` is lost, by what else is there.

    Raises:
        UserError: there is no run, or one of a job that this version does not know.
    """
    storage = output.storage
    if output.record is None:
        for name in names():
            job = job_named(name)
            if job.has_run(output):
                return job
        raise UserError(f"{storage.uri} holds no run of steersweep")
    name = output.record["spec"].get("job")
    if name not in _JOBS:
        raise UserError(
            f"{storage.uri} holds a run of job {name!r}, which this steersweep does not know; use "
            "the version that made it"
        )
    return job_named(name)


@contextmanager
def registered(job: AnyJob) -> Iterator[None]:
    """Know one more job for as long as the context lasts: for jobs of other packages, and tests."""
    _JOBS[job.name], _TYPES[job.name] = job, job.spec_type
    try:
        yield
    finally:
        del _JOBS[job.name], _TYPES[job.name]


def load_any_spec(source: str, overrides: Sequence[str] = (), output: str | None = None) -> JobSpec:
    """The spec in a file, of the job that it names; see ``jobs.spec.load_spec``."""
    return load_spec_of_any_job(spec_types(), source, overrides, output)


def storage_of(source: str, endpoint_url: str | None) -> Storage:
    """The output that a URI names, or the output of a spec (a file, or an embedded name).

    Raises:
        UserError: not a valid spec, or the storage does not answer.
    """
    is_spec = Path(source).is_file() or (source in embedded_specs() and not Path(source).is_dir())
    if is_spec:
        storage = load_any_spec(source).storage_spec(endpoint_url).open()
    else:
        storage = StorageSpec(source, endpoint_url).open()
    storage.check_reachable()
    return storage


def open_results(uri: str, endpoint_url: str | None = None) -> Results:
    """The results of a run of any job, finished or not, from a folder or ``s3://bucket/prefix``.

    Args:
        endpoint_url: of an S3-compatible store (MinIO, R2, ...).

    Raises:
        UserError: there is no run of steersweep at this place, or its plan or a part is damaged.
    """
    storage = StorageSpec(uri, endpoint_url).open()
    storage.check_reachable()
    return results_of(storage)


def results_of(storage: Storage) -> Results:
    """The results in an opened output; raises as ``open_results`` does."""
    output = StoredOutput.read(storage)
    job = job_of_output(output)
    return job.results(job.open(output))


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
