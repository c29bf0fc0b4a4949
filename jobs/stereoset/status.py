"""Where a run stands, read from its output alone."""

from __future__ import annotations

from collections import Counter

from cluster.errors import ObjectNotFoundError
from cluster.lease import LeaseContent
from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.console import print_table, say, warn
from jobs.stereoset import batch_size, non_finite
from jobs.stereoset.inventory import take_inventory
from jobs.stereoset.output import LOCK_KEY


def status(storage: Storage) -> None:
    """Print progress by model and phase, and what the last driver said.

    Raises:
        UserActionError: no run at this place, or damaged parts.
    """
    record = Ledger(storage).read_record() or {}
    if record and not Ledger(storage).read_manifest():
        say(f"{storage.uri}: {_state(storage, record)}; nothing is planned yet")
        return
    inventory = take_inventory(storage)
    total: Counter[tuple[str, str]] = Counter()
    done: Counter[tuple[str, str]] = Counter()
    rows: Counter[tuple[str, str]] = Counter()
    rows_done: Counter[tuple[str, str]] = Counter()
    for task in inventory.planned:
        key = (task.group.model, task.phase)
        total[key] += 1
        rows[key] += task.num_rows_cells
        if task.plan_id in inventory.done:
            done[key] += 1
            rows_done[key] += task.num_rows_cells
    say(f"{storage.uri}: {_state(storage, record)}")
    print_table(
        "progress",
        ["model", "phase", "tasks", "of", "cell rows", "of", "done"],
        [
            [
                *key,
                f"{done[key]:,}",
                f"{total[key]:,}",
                f"{rows_done[key]:,}",
                f"{rows[key]:,}",
                f"{100 * done[key] / total[key]:.0f}%",
            ]
            for key in sorted(total)
        ],
    )
    for line in batch_size.described(storage, inventory):
        say(line)
    for line in non_finite.described(inventory):
        warn(line)
    sessions = record.get("sessions") or [{}]
    for task in sessions[-1].get("set_aside", []):
        say(
            f"set aside: {task['group']}, shard {task['shard']} ({task['table']}): {task['reason']}"
        )


def _state(storage: Storage, record: dict[str, object]) -> str:
    try:
        found = storage.read_versioned(LOCK_KEY)
    except ObjectNotFoundError:
        outcome, ended = record.get("outcome", "unknown"), record.get("ended")
        if outcome == "running":
            return "no driver; the last one ended without a word"
        return f"{outcome}" + (f", ended {ended}" if ended else "")
    holder = LeaseContent.parse(found.data)
    if holder is None:
        return "locked by an unknown driver"
    return f"driver on {holder.host}, process {holder.pid}, heard of {found.age_s:.0f} s ago"
