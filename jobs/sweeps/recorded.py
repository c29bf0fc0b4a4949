"""The sweep that an output's record names, resolved again and found unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from jobs.identity import CODE_KEY, changed_keys
from jobs.spec import JobSpec
from jobs.sweeps.job import Job, StoredOutput, Sweep
from steering_core.models import device_kind
from steersweep.errors import UserError

SpecT = TypeVar("SpecT", bound=JobSpec)
SweepT = TypeVar("SweepT", bound=Sweep)
OutputT = TypeVar("OutputT", bound=StoredOutput)


def recorded_sweep(job: Job[SpecT, SweepT, OutputT], output: OutputT) -> SweepT:
    """The sweep of an output's record.

    Raises:
        UserError: no run there, model or data changed since, or they are not where they were.
    """
    storage, record = output.storage, output.record
    if record is None:
        raise UserError(f"{storage.uri} holds no run of steersweep")
    try:
        spec = job.spec_type.model_validate(record["spec"])
        identity = job.recorded_identity(record)
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{storage.uri_of('run.json')} holds no sweep that this version can read"
        ) from error
    try:
        device = device_kind(spec.compute.device)
    except UserError:  # the run was on another machine; any device is held to the same tolerance
        device = device_kind()
    try:
        sweep = job.resolve(spec, device, output)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(
            f"{error} (from {storage.uri_of('run.json')}; relative paths are relative to the "
            "folder where the sweep was run)"
        ) from error
    changes = changed_keys(identity, _comparable(sweep.identity(), identity))
    if changes:
        raise UserError(
            f"the inputs of {storage.uri} have changed since the run: {'; '.join(changes)}. "
            "Restore them to verify the output"
        )
    return sweep


def _comparable(now: Mapping[str, Any], then: Mapping[str, object]) -> dict[str, Any]:
    """Without the code of models whose record is older than that key: it cannot be compared."""
    return {key: now[key] for key in now if key in then or not key.endswith(CODE_KEY)}
