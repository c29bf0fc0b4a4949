"""What can be told of an output of any job: its progress, and its report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.console import clear, link, print_json
from jobs.session import DriverState
from steersweep.errors import UserError


def watch(storage: Storage, every_s: float) -> None:
    """Print the status again and again, until the run ends."""
    while True:
        clear()
        if not status(storage):
            return
        time.sleep(every_s)


def status(storage: Storage, *, prints_json: bool = False) -> bool:
    """Print how far a run has come.

    Args:
        prints_json: whether to print it as JSON, too.

    Returns:
        Whether a driver is at work.

    Raises:
        UserError: no run at this place, or damaged parts.
    """
    driver, content = _status(storage)
    if prints_json:
        print_json(content)
    return driver.is_running


def status_content(storage: Storage) -> dict[str, Any]:
    """Print how far a run has come, and return it as the plain data of ``status --json``."""
    return _status(storage)[1]


def _status(storage: Storage) -> tuple[DriverState, dict[str, Any]]:
    record = Ledger(storage).read_record() or {}
    driver = DriverState.of(storage, record)
    if _is_persona(record):
        from jobs.persona.report import status as status_of_persona

        job, content = "persona", status_of_persona(storage, driver)
    else:
        from jobs.stereoset.status import status as status_of_stereoset

        job, content = "stereoset", status_of_stereoset(storage, record, driver)
    known = {"status_version": 1, "output": storage.uri, "job": job}
    return driver, {**known, "driver": driver.as_json(), **content}


def report(
    storage: Storage,
    *,
    figures: bool,
    beside: Sequence[Storage] = (),
    by: str | None = None,
    prints_json: bool = False,
) -> None:
    """Make a run's report from its results alone.

    Args:
        figures: whether to draw them.
        beside: other runs, to compare with this one.
        by: columns that the printed result separates, with commas between them.
        prints_json: whether to print the result as JSON, too.

    Raises:
        UserError: no run at this place, damaged parts, or nothing to compare with; or ``by``
            names no column.
    """
    if _is_persona(Ledger(storage).read_record() or {}):
        from jobs.persona import report as persona

        if beside:
            raise UserError("--compare is for outputs of the stereoset job")
        if by is not None:
            raise UserError(
                "--by is for outputs of the stereoset job; a persona result always has one row "
                "per model, trait, layer, positions and coefficient"
            )
        job, content = "persona", persona.as_json(persona.report(storage, figures=figures))
    else:
        from jobs.stereoset import report as stereoset
        from jobs.stereoset.result import parse_by

        columns = None if by is None else parse_by(by)
        summary = stereoset.report(storage, figures=figures, beside=beside, by=columns)
        job, content = "stereoset", stereoset.as_json(storage, summary, columns)
    if prints_json:
        places = {
            "page": link(storage.uri_of("report.html")),
            "tables": storage.uri_of("summary"),
            "figures": storage.uri_of("figures") if figures else None,
        }
        known = {"report_version": 1, "output": storage.uri, "job": job}
        print_json({**known, **places, **content})


def verify(storage: Storage, num_rows: int, seed: int, *, prints_json: bool = False) -> int:
    """Recompute drawn rows the slow way and compare; 0 within the tolerance, 1 not.

    Args:
        num_rows: of each model.
        prints_json: whether to print the outcome as JSON, too.

    Raises:
        UserError: there is no run, nothing is finished, or model or data are not where they were
            or have changed since.
    """
    if _is_persona(Ledger(storage).read_record() or {}):
        from jobs.persona.verify import verified as verified_answers

        job, content = "persona", verified_answers(storage, num_rows, seed)
    else:
        from jobs.stereoset.verify import verified as verified_rows

        job, content = "stereoset", verified_rows(storage, num_rows, seed)
    if prints_json:
        known = {"verify_version": 1, "output": storage.uri, "job": job, "seed": seed}
        print_json({**known, **content})
    return 0 if content["verdict"] != "broken" else 1


def _is_persona(record: Mapping[str, Any]) -> bool:
    return bool(record) and record["spec"].get("job") == "persona"
