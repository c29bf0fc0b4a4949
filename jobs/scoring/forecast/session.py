"""What a session of a run set out to do, and what it did: side by side in ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.tasks import Receipt
from jobs.console import Verbosity, print_table, say, warn
from jobs.scoring.forecast.tasks import Forecast, Forecaster
from jobs.scoring.inventory import Inventory
from jobs.scoring.plan import PlannedTask
from jobs.scoring.sweep import AnySweep
from jobs.sweeps.units import amount
from jobs.words import duration
from steering_core.skeleton import read_skeleton
from steering_core.work import Batching
from steersweep.errors import UserError


class Tally:
    """Counts what is done of a session's tasks, in the units of the forecast."""

    def __init__(self, sweep: AnySweep, inventory: Inventory) -> None:
        self._forecasts = _forecasts(sweep, inventory)
        self._num_tasks = self._num_rows_cells = self._written_bytes = 0
        self._needed_flops = self._replica_s = 0.0

    @property
    def planned(self) -> dict[str, Any]:
        """What the session has to do."""
        total = sum(self._forecasts.values(), Forecast())
        return _numbers(
            total.num_tasks, total.num_rows_cells, total.needed_flops, total.written_bytes
        )

    def add(self, task: PlannedTask, receipt: Receipt) -> None:
        """A task is done."""
        self._num_tasks += 1
        self._num_rows_cells += task.num_rows_cells
        self._written_bytes += receipt.num_bytes
        self._replica_s += receipt.duration_s
        if task.plan_id in self._forecasts:
            self._needed_flops += self._forecasts[task.plan_id].needed_flops

    def actual(self, seconds: float) -> dict[str, Any]:
        """What is done, and how fast.

        Args:
            seconds: since the first replica was ready.
        """
        return {
            **_numbers(
                self._num_tasks, self._num_rows_cells, self._needed_flops, self._written_bytes
            ),
            "seconds": round(seconds, 3),
            "replica_seconds": round(self._replica_s, 3),
            "needed_flops_per_s": self._needed_flops / seconds if seconds > 0 else 0.0,
        }


def _numbers(tasks: int, rows_cells: int, flops: float, written: int) -> dict[str, Any]:
    return {
        "num_tasks": tasks,
        "num_rows_cells": rows_cells,
        "needed_flops": flops,
        "written_bytes": written,
    }


def _forecasts(sweep: AnySweep, inventory: Inventory) -> dict[str, Forecast]:
    """By plan id, of every task that is not done."""
    found: dict[str, Forecast] = {}
    # Neither needed operations nor bytes depend on the size of batches.
    batching = Batching(1, reuses_prefix=sweep.protocol.leaves_prefix_alone)
    for name, model in sweep.models.items():
        try:
            skeleton = read_skeleton(model.source)
        except UserError as error:  # what cannot be forecast can still be run
            warn(f"{error}; run.json will not contain the planned work")
            continue
        forecaster = Forecaster(sweep, name, skeleton, batching)
        for task in inventory.planned:
            if task.group.model == name and task.plan_id not in inventory.done:
                found[task.plan_id] = forecaster.forecast(task)
    return found


def print_sessions(sessions: Sequence[Mapping[str, Any]]) -> None:
    """With ``--verbose``, print what each session planned and did, if it has written that down."""
    for session in sessions:
        if "planned" not in session:
            continue
        planned, actual = session["planned"], session.get("actual") or {}
        rows = [
            [name, *_pair(planned, actual, key, form)]
            for name, key, form in (
                ("tasks", "num_tasks", "{:,}"),
                ("rows", "num_rows_cells", "{:,}"),
                ("FLOP needed", "needed_flops", ""),
                ("bytes written", "written_bytes", ""),
            )
        ]
        if actual:
            rows.append(["time", "", duration(actual["seconds"])])
            rows.append(["FLOP needed per s", "", amount(actual["needed_flops_per_s"])])
        say(at=Verbosity.VERBOSE)
        title = f"session of {session['started']}, {session['outcome']}"
        print_table(title, ["", "planned", "done"], rows, at=Verbosity.VERBOSE)


def _pair(
    planned: Mapping[str, Any], actual: Mapping[str, Any], key: str, form: str
) -> tuple[str, str]:
    def shown(value: Any) -> str:
        if value is None:
            return "-"
        return form.format(value) if form else amount(value)

    return shown(planned[key]), shown(actual.get(key))
