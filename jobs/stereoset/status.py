"""Where a run stands, read from its output alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.console import Verbosity, detail, print_table, say, warn
from jobs.session import DriverState
from jobs.stereoset import batch_size, non_finite
from jobs.stereoset.certificate_file import tell_certificate
from jobs.stereoset.inventory import Inventory, take_inventory
from jobs.stereoset.plan import Group, PlannedTask
from jobs.words import duration, percent, rate

_MOST_GROUPS = 40


def status(storage: Storage, record: Mapping[str, Any], driver: DriverState) -> dict[str, Any]:
    """Print progress by model and phase, and return it as plain data.

    Groups of examples are printed while the run is unfinished, or with ``--verbose``.

    Raises:
        UserError: no run at this place, or damaged parts.
    """
    if record and not Ledger(storage).read_manifest():
        say(f"{storage.uri}: {driver.told}; nothing is planned yet", at=Verbosity.QUIET)
        return {"rows_done": 0, "rows_total": None, "phases": [], "groups": [], "set_aside": []}
    inventory = take_inventory(storage)
    session = (record.get("sessions") or [{}])[-1]
    content = _progress(inventory, session, is_running=driver.is_running)
    say(f"{storage.uri}: {driver.told}", at=Verbosity.QUIET)
    say(_line(content, is_running=driver.is_running), at=Verbosity.QUIET)
    content["phases"] = _counts(inventory, lambda t: {"model": t.group.model, "phase": t.phase})
    content["groups"] = _counts(inventory, lambda t: _axes(t.group))
    content["set_aside"] = list(session.get("set_aside", []))
    _print_counts(content["phases"])
    is_left = content["rows_done"] < content["rows_total"]
    is_short = is_left and len(content["groups"]) <= _MOST_GROUPS
    _print_counts(content["groups"], at=Verbosity.NORMAL if is_short else Verbosity.VERBOSE)
    say()
    for line in batch_size.described(storage, inventory):
        detail(line)
    if inventory.done:
        content["certificate"] = tell_certificate(storage, inventory)
    for line in non_finite.described(inventory):
        warn(line)
    for task in content["set_aside"]:
        say(
            f"set aside: {task['group']}, shard {task['shard']} ({task['table']}): {task['reason']}"
        )
    return content


def _progress(
    inventory: Inventory, session: Mapping[str, Any], *, is_running: bool
) -> dict[str, Any]:
    """How much is done and, while a driver is at work, how fast and for how long still."""
    total = sum(task.num_rows_cells for task in inventory.planned)
    done = inventory.num_rows_done
    rate_per_s, left_s = session.get("rows_per_s"), None
    if is_running:
        took_s = (datetime.now(UTC) - datetime.fromisoformat(session["started"])).total_seconds()
        rate_per_s = max(0.0, done - session.get("rows_before", 0)) / max(1.0, took_s)
        left_s = (total - done) / rate_per_s if rate_per_s > 0 else None
    return {
        "rows_done": done,
        "rows_total": total,
        "rows_per_s": rate_per_s,
        "seconds_left": left_s,
    }


def _line(content: Mapping[str, Any], *, is_running: bool) -> str:
    done, total, per_s = (content[name] for name in ("rows_done", "rows_total", "rows_per_s"))
    line = f"{done:,} of {total:,} rows ({percent(done, total)})"
    if is_running:
        if not per_s:
            return f"{line}, no task of this session is finished yet"
        left = "" if content["seconds_left"] is None else duration(content["seconds_left"])
        return f"{line}, {rate(per_s)}, about {left} left"
    return f"{line}, {rate(per_s)} in the last session" if per_s else line


def _axes(group: Group) -> dict[str, str]:
    return {"model": group.model, "split": group.split, "bias_type": group.bias_type}


def _counts(
    inventory: Inventory, key_of: Callable[[PlannedTask], dict[str, str]]
) -> list[dict[str, Any]]:
    """Tasks and rows that are planned and done, by key."""
    counts: dict[tuple[str, ...], dict[str, Any]] = {}
    for task in inventory.planned:
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


def _print_counts(counts: Sequence[Mapping[str, Any]], at: Verbosity = Verbosity.NORMAL) -> None:
    if not counts:
        return
    keys = [name for name in counts[0] if not name.startswith(("tasks_", "rows_"))]
    say(at=at)
    print_table(
        "",
        [*keys, "rows", "done", "tasks"],
        [
            [
                *(of[key] for key in keys),
                f"{of['rows_done']:,} of {of['rows_total']:,}",
                percent(of["rows_done"], of["rows_total"]),
                f"{of['tasks_done']:,} of {of['tasks_total']:,}",
            ]
            for of in counts
        ],
        at=at,
    )
