"""Where a run stands, read from its output alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jobs.console import Verbosity, detail, say, warn
from jobs.scoring import batch_size, non_finite
from jobs.scoring.inventory import Inventory
from jobs.scoring.output import ScoredOutput
from jobs.scoring.plan import PlannedTask
from jobs.sweeps.certificate_file import tell_certificate
from jobs.sweeps.session import DriverState
from jobs.sweeps.status import print_counts, progress_line, progress_of, set_aside_words

_MOST_GROUPS = 40


def status(output: ScoredOutput, driver: DriverState) -> dict[str, Any]:
    """Print progress by model and phase, and return it as plain data.

    Groups of examples are printed while the run is unfinished, or with ``--verbose``.

    Raises:
        UserError: no run at this place, or damaged parts.
    """
    storage = output.storage
    if output.record and not output.manifest:
        say(f"{storage.uri}: {driver.told}; nothing is planned yet", at=Verbosity.QUIET)
        return {"rows_done": 0, "rows_total": None, "phases": [], "groups": [], "set_aside": []}
    inventory, session = output.inventory, output.last_session
    is_running = driver.is_running
    total = sum(task.num_rows_cells for task in inventory.planned)
    content = progress_of(inventory.num_rows_done, total, session, is_running=is_running)
    say(f"{storage.uri}: {driver.told}", at=Verbosity.QUIET)
    say(progress_line(content, "rows", is_running=is_running), at=Verbosity.QUIET)
    content["phases"] = phase_counts(inventory)
    content["groups"] = _counts(inventory.of_own_data, inventory, lambda t: t.group.columns)
    content["set_aside"] = list(session.get("set_aside", []))
    print_counts(content["phases"], "rows")
    is_left = content["rows_done"] < content["rows_total"]
    is_short = is_left and len(content["groups"]) <= _MOST_GROUPS
    print_counts(content["groups"], "rows", at=Verbosity.NORMAL if is_short else Verbosity.VERBOSE)
    say()
    for line in batch_size.described(storage, inventory):
        detail(line)
    if inventory.done:
        content["certificate"] = tell_certificate(storage, inventory.footers())
    for line in non_finite.described(inventory):
        warn(line)
    for task in content["set_aside"]:
        say(f"set aside: {set_aside_words(task)}")
    return content


def phase_counts(inventory: Inventory) -> list[dict[str, Any]]:
    """Tasks and rows that are planned and done, by model and phase."""
    return _counts(
        inventory.planned, inventory, lambda t: {"model": t.group.model, "phase": t.phase}
    )


def _counts(
    tasks: Sequence[PlannedTask],
    inventory: Inventory,
    key_of: Callable[[PlannedTask], dict[str, str]],
) -> list[dict[str, Any]]:
    """Tasks and rows that are planned and done, by key."""
    counts: dict[tuple[str, ...], dict[str, Any]] = {}
    for task in tasks:
        key = key_of(task)
        of_key = counts.setdefault(
            tuple(key.values()),
            {**key, "tasks_done": 0, "tasks_total": 0, "rows_done": 0, "rows_total": 0},
        )
        of_key["tasks_total"] += 1
        of_key["rows_total"] += task.num_rows_cells
        if task.plan_id in inventory.done:
            of_key["tasks_done"] += 1
            of_key["rows_done"] += task.num_rows_cells
    return [counts[key] for key in sorted(counts)]
