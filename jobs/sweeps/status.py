"""How far a run has come, in the words and keys that all jobs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jobs.console import Verbosity, print_table, say
from jobs.sweeps.steps import Count, Stage, Steps, by_stage
from jobs.words import duration, percent, rate


def progress_of(
    done: int, total: int, session: Mapping[str, Any], *, is_running: bool
) -> dict[str, Any]:
    """How much is done and, while a driver is at work, how fast and for how long still.

    Args:
        done, total: items.
        session: the last one in ``run.json``.
    """
    rate_per_s, left_s = session.get("rows_per_s"), None
    if is_running:
        took_s = (datetime.now(UTC) - datetime.fromisoformat(session["started"])).total_seconds()
        rate_per_s = max(0.0, done - session.get("rows_before", 0)) / max(1.0, took_s)
        # Nothing is known of work that is counted otherwise, such as judging what is written.
        is_known = rate_per_s > 0 and done < total
        left_s = (total - done) / rate_per_s if is_known else None
    return {
        "rows_done": done,
        "rows_total": total,
        "rows_per_s": rate_per_s,
        "seconds_left": left_s,
    }


def progress_line(content: Mapping[str, Any], item: str, *, is_running: bool) -> str:
    """The progress in words: ``8 of 2,520 rows (0.3 %), 0.25 rows/s, about 2 h 47 min left``."""
    done, total, per_s = (content[name] for name in ("rows_done", "rows_total", "rows_per_s"))
    line = f"{done:,} of {total:,} {item} ({percent(done, total)})"
    if is_running:
        if not per_s:
            return f"{line}, no task of this session is finished yet"
        line = f"{line}, {rate(per_s, item)}"
        left_s = content["seconds_left"]
        return line if left_s is None else f"{line}, about {duration(left_s)} left"
    return f"{line}, {rate(per_s, item)} in the last session" if per_s else line


def print_counts(
    counts: Sequence[Mapping[str, Any]], item: str, at: Verbosity = Verbosity.NORMAL
) -> None:
    """Print items and tasks, done and in all, a line for each key.

    Args:
        counts: the columns of the key, then ``tasks_done``, ``tasks_total``, ``rows_done``,
            ``rows_total``.
    """
    if not counts:
        return
    keys = [name for name in counts[0] if not name.startswith(("tasks_", "rows_"))]
    say(at=at)
    print_table(
        "",
        [*keys, item, "done", "tasks"],
        [
            [
                *(str(of[key]) for key in keys),
                f"{of['rows_done']:,} of {of['rows_total']:,}",
                percent(of["rows_done"], of["rows_total"]),
                f"{of['tasks_done']:,} of {of['tasks_total']:,}",
            ]
            for of in counts
        ],
        at=at,
    )


def steps_as_json(steps: Steps, totals: Mapping[Stage, int]) -> list[dict[str, Any]]:
    """Items of each stage that progress counts, done and in all, as plain data."""
    counts = {stage: Count() for stage in totals} | by_stage(steps.counts)
    return [
        {
            "stage": str(stage),
            "num_items": max(total, counts[stage].known),
            "num_items_done": counts[stage].done,
        }
        for stage, total in totals.items()
    ]


def print_steps(steps: Steps, totals: Mapping[Stage, int]) -> None:
    """Print a line for each stage: ``scoring rows: 8 of 20 (40.0 %)``."""
    for of in steps_as_json(steps, totals):
        num, total = of["num_items_done"], of["num_items"]
        say(f"{of['stage']}: {num:,} of {total:,} ({percent(num, total)})", at=Verbosity.QUIET)


def set_aside_words(entry: Mapping[str, Any]) -> str:
    """An entry of ``set_aside`` in ``run.json``: a task that failed for good, and why."""
    # Only tasks of StereoSet belong to shards, and of those not the fits of vectors.
    shard = "" if entry.get("shard") is None else f", shard {entry['shard']}"
    return f"{entry['group']}{shard} ({entry['table']}): {entry['reason']}"
