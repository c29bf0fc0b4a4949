"""Where a run stands, read from its output alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime
from typing import Any

from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.console import print_table, say, warn
from jobs.session import DriverState
from jobs.stereoset import batch_size, non_finite
from jobs.stereoset.certificate_file import tell_certificate
from jobs.stereoset.inventory import Inventory, take_inventory
from jobs.stereoset.plan import PlannedTask
from jobs.words import duration

_MOST_GROUPS = 40


def status(storage: Storage, record: Mapping[str, Any], driver: DriverState) -> None:
    """Print progress by model, phase and group, and what the last driver said.

    Raises:
        UserActionError: no run at this place, or damaged parts.
    """
    if record and not Ledger(storage).read_manifest():
        say(f"{storage.uri}: {driver.told}; nothing is planned yet")
        return
    inventory = take_inventory(storage)
    say(f"{storage.uri}: {driver.told}")
    session = (record.get("sessions") or [{}])[-1]
    say(_progress(inventory, session, is_running=driver.is_running))
    _table("progress", ["model", "phase"], inventory, lambda t: (t.group.model, t.phase))
    if len({task.group for task in inventory.planned}) <= _MOST_GROUPS:
        _table("by group", ["group"], inventory, lambda t: (str(t.group),))
    for line in batch_size.described(storage, inventory):
        say(line)
    if inventory.done:
        tell_certificate(storage, inventory)
    for line in non_finite.described(inventory):
        warn(line)
    for task in session.get("set_aside", []):
        say(
            f"set aside: {task['group']}, shard {task['shard']} ({task['table']}): {task['reason']}"
        )


def _progress(inventory: Inventory, session: Mapping[str, Any], *, is_running: bool) -> str:
    """How much is done and, while a driver is at it, how fast and for how long still."""
    total = sum(task.num_rows_cells for task in inventory.planned)
    done = inventory.num_rows_done
    line = f"{done:,} of {total:,} cell rows, {100 * done / max(1, total):.0f}%"
    if not is_running:
        rate = session.get("rows_per_s")
        return line + (f"; {rate:,.0f} rows per second in the last session" if rate else "")
    took_s = (datetime.now(UTC) - datetime.fromisoformat(session["started"])).total_seconds()
    rate = (done - session.get("rows_before", 0)) / max(1.0, took_s)
    if rate <= 0:
        return f"{line}; nothing finished yet in {duration(took_s)}"
    left = duration((total - done) / rate)
    return f"{line}; {rate:,.1f} rows per second in {duration(took_s)}, about {left} left"


def _table(
    title: str,
    columns: list[str],
    inventory: Inventory,
    key_of: Callable[[PlannedTask], tuple[str, ...]],
) -> None:
    tasks, tasks_done, rows, rows_done = (Counter[Hashable]() for _ in range(4))
    keys = sorted({key_of(task) for task in inventory.planned})
    for task in inventory.planned:
        key = key_of(task)
        tasks[key] += 1
        rows[key] += task.num_rows_cells
        if task.plan_id in inventory.done:
            tasks_done[key] += 1
            rows_done[key] += task.num_rows_cells
    print_table(
        title,
        [*columns, "tasks", "of", "cell rows", "of", "done"],
        [
            [
                *key,
                *(f"{counter[key]:,}" for counter in (tasks_done, tasks, rows_done, rows)),
                f"{100 * tasks_done[key] / tasks[key]:.0f}%",
            ]
            for key in keys
        ],
    )
