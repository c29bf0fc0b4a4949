"""The sweep that an output's record names, resolved again and found unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.identity import CODE_KEY, changed_keys
from jobs.record import Described
from jobs.spec import ComputeSpec, SpecModel
from steering_core.models import device_kind
from steersweep.errors import UserError

Spec = TypeVar("Spec", bound=SpecModel)
Sweep = TypeVar("Sweep", bound=Described)


def recorded_sweep(
    storage: Storage,
    kind: type[Spec],
    resolve: Callable[[Spec, str], Sweep],
    identity_of: Callable[[Mapping[str, Any]], Mapping[str, object]],
) -> tuple[Sweep, str]:
    """The sweep of the output's record, and the run's outcome.

    Args:
        resolve: of the job, for a kind of device.
        identity_of: what a record says of what decided its numbers.

    Raises:
        UserError: there is no run, or model or data are not where they were or have changed
            since.
    """
    record = Ledger(storage).read_record()
    if record is None:
        raise UserError(f"{storage.uri} holds no run of steersweep")
    try:
        spec = kind.model_validate(record["spec"])
        identity = identity_of(record)
        outcome = str(record["outcome"])
        compute: ComputeSpec = spec.compute  # type: ignore[attr-defined]
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{storage.uri_of('run.json')} holds no sweep that this version can read"
        ) from error
    try:
        device = device_kind(compute.device)
    except UserError:  # the run was on another machine; any device is held to the same tolerance
        device = device_kind()
    try:
        sweep = resolve(spec, device)
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
    return sweep, outcome


def _comparable(now: Mapping[str, Any], then: Mapping[str, object]) -> dict[str, Any]:
    """Without the code of models whose record is older than that key: it cannot be compared."""
    return {key: now[key] for key in now if key in then or not key.endswith(CODE_KEY)}
