"""What can be told of an output of any job: its progress, and its report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from cluster.errors import UserActionError
from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.console import clear, say
from jobs.session import DriverState


def watch(storage: Storage, every_s: float) -> None:
    """``status`` again and again, until no driver is at it."""
    while True:
        clear()
        if not status(storage):
            return
        time.sleep(every_s)


def status(storage: Storage) -> bool:
    """Print how far a run has come.

    Returns:
        Whether a driver is at it.

    Raises:
        UserActionError: no run at this place, or damaged parts.
    """
    record = Ledger(storage).read_record() or {}
    driver = DriverState.of(storage, record)
    if _is_persona(record):
        from jobs.persona.report import status as of_persona

        say(f"{storage.uri}: {driver.told}")
        of_persona(storage)
    else:
        from jobs.stereoset.status import status as of_stereoset

        of_stereoset(storage, record, driver)
    return driver.is_running


def report(
    storage: Storage, *, figures: bool, beside: Storage | None, by: str | None = None
) -> None:
    """Make a run's report from its results alone.

    Args:
        figures: whether to draw them.
        beside: another run, to compare with this one.
        by: columns that the printed result separates, with commas between them.

    Raises:
        UserActionError: no run at this place, damaged parts, or nothing to compare with.
        InputError: ``by`` names no column.
    """
    if _is_persona(Ledger(storage).read_record() or {}):
        from jobs.persona.report import report as of_persona

        if beside is not None:
            raise UserActionError("--compare is for outputs of the stereoset job")
        if by is not None:
            raise UserActionError(
                "--by is for outputs of the stereoset job; a persona result always has one row "
                "per model, trait, layer, positions and coefficient"
            )
        of_persona(storage, figures=figures)
        return
    from jobs.stereoset.report import report as of_stereoset
    from jobs.stereoset.result import parse_by

    columns = None if by is None else parse_by(by)
    of_stereoset(storage, figures=figures, beside=beside, by=columns)


def verify(storage: Storage, num_rows: int, seed: int) -> int:
    """Compute drawn rows again, the slow way; 0 within the tolerance, 1 not.

    Args:
        num_rows: of each model.

    Raises:
        UserActionError: no run there, nothing finished, or model or data changed since.
        InputError: model or data are not where they were.
    """
    if _is_persona(Ledger(storage).read_record() or {}):
        from jobs.persona.verify import verify as of_persona

        return of_persona(storage, num_rows, seed)
    from jobs.stereoset.verify import verify as of_stereoset

    return of_stereoset(storage, num_rows, seed)


def _is_persona(record: Mapping[str, Any]) -> bool:
    return bool(record) and record["spec"].get("job") == "persona"
