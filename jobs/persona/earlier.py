"""Outputs of earlier versions, whose rows and tasks have other ids: read, never continued.

An output does not mix versions of ids: its answers would be generated, judged and counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.identity import changed_keys
from jobs.persona.index import ROWS_PER_TASK_KEY
from jobs.persona.output import PersonaOutput
from jobs.persona.resolve import IDS_VERSION, ROWS_PER_TASK, PersonaSweep
from steersweep.errors import UserError

_GRID = ("layers", "coeffs", "positions")


def ids_of(output: PersonaOutput) -> int:
    """The version of the ids of an output; that of a new output if there is none yet.

    Raises:
        UserError: a newer version of steersweep wrote it.
    """
    record = output.record
    if record is None:
        # The index remains if run.json is lost.
        version = output.index.version
        return IDS_VERSION if version is None else version
    identity = record.get("identity", {})
    if identity.get("job") != "persona":
        return IDS_VERSION
    version = int(identity.get("ids", 1))
    if version > IDS_VERSION:
        raise UserError(
            f"{output.storage.uri} has ids of version {version}, but this steersweep knows "
            f"versions up to {IDS_VERSION}; use a newer steersweep"
        )
    return version


def rows_per_task_of(output: PersonaOutput) -> int | None:
    """What ``compute.examples_per_task: auto`` means in an output; None for a new output.

    Task ids depend on it, so an output keeps the number with which it began, on whatever device it
    goes on. Outputs that do not name it are older than any other number than ``ROWS_PER_TASK``.
    """
    record = output.record
    if record is not None:
        return int(record.get(ROWS_PER_TASK_KEY, ROWS_PER_TASK))
    parts = output.index  # remains if run.json is lost
    return None if parts.version is None else parts.rows_per_task


def refuse_unfinished(output: PersonaOutput, ids: int) -> None:
    """Raise UserError for an output of earlier ids that is not finished."""
    record = output.record
    if ids < IDS_VERSION and (record is None or record["outcome"] != "done"):
        raise UserError(
            f"{output.storage.uri} was started by an earlier version of steersweep, which named "
            "answers differently, and is not finished: use --new to write a new output, or finish "
            "it with that version"
        )


def refuse_other_sweep(output: PersonaOutput, sweep: PersonaSweep) -> None:
    """Raise UserError unless the sweep is that of a finished output of earlier ids.

    Models, traits and the grid may not grow there either.
    """
    record = output.record
    assert record is not None, "refuse_unfinished has been asked"
    changes = changed_keys(_all_of(record["identity"], record["spec"]), _all_of_sweep(sweep))
    if changes:
        raise UserError(
            f"{output.storage.uri} was finished by an earlier version of steersweep, which named "
            "answers differently, so nothing can be added to it or changed; changed: "
            f"{'; '.join(changes)}. Put the spec back, or use --new to write a new output"
        )


def _all_of_sweep(sweep: PersonaSweep) -> dict[str, Any]:
    return _all_of(sweep.identity(), sweep.resolved_spec())


def _all_of(identity: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with the grid, in which order does not count."""
    grid = {f"steering.{name}": _values(spec["steering"][name]) for name in _GRID}
    return {**identity, **grid}


def _values(values: list[Any]) -> list[Any]:
    """Sorted; coefficients are decimal texts in a spec, whose spelling may have changed since."""
    return sorted(values, key=str)
