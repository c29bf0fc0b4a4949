"""The jobs by name: which spec is whose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cluster.storage import Storage, StorageSpec
from jobs.persona.spec import PersonaSpec
from jobs.resources import embedded_specs
from jobs.spec import load_spec_of_any_job
from jobs.stereoset.spec import StereoSetSpec
from steersweep.errors import UserError

AnySpec = StereoSetSpec | PersonaSpec

_SPECS: dict[str, type[StereoSetSpec] | type[PersonaSpec]] = {
    "stereoset": StereoSetSpec,
    "persona": PersonaSpec,
}


def spec_kind(job: str) -> type[StereoSetSpec] | type[PersonaSpec]:
    """The spec of a job; UserError for a name that is none."""
    if job not in _SPECS:
        raise UserError(f"--job must be one of {', '.join(_SPECS)}, got {job!r}")
    return _SPECS[job]


def load_any_spec(source: str, overrides: Sequence[str] = (), output: str | None = None) -> AnySpec:
    """The spec in a file, of the job that it names; see ``load_spec``."""
    return load_spec_of_any_job(_SPECS, source, overrides, output)


def storage_of(source: str, endpoint_url: str | None) -> Storage:
    """The output that a URI names, or the output of a spec (a file, or an embedded name).

    Raises:
        UserError: not a valid spec, or the storage does not answer.
    """
    is_spec = Path(source).is_file() or (source in embedded_specs() and not Path(source).is_dir())
    if is_spec:
        spec = load_any_spec(source)
        endpoint_url = endpoint_url or spec.storage.endpoint_url
        storage = StorageSpec(spec.output, endpoint_url, spec.storage.region).open()
    else:
        storage = StorageSpec(source, endpoint_url).open()
    storage.check_reachable()
    return storage
