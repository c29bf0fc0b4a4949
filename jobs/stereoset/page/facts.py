"""Everything that the page shows, gathered once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cluster.redaction import redact_all
from jobs.scoring import non_finite
from jobs.scoring.groups import Group
from jobs.scoring.inventory import Inventory
from jobs.stereoset.comparison import Comparison
from jobs.stereoset.groups import group_of
from jobs.stereoset.summary import Summary


@dataclass(frozen=True)
class Incomplete:
    """Cells of a group that have no result yet."""

    group: str
    num_missing: int
    num_planned: int


@dataclass(frozen=True)
class Facts:
    """A run as the page shows it; secrets in its texts are hidden.

    Attributes:
        record: what ``run.json`` holds; empty if it is lost.
        certificate: what ``certificate.json`` holds.
        incomplete: the groups that lack cells.
        without_baseline: groups that have steered rows and lack some of their baseline.
        non_finite: a line for each group that has scores which are not finite.
        set_aside: tasks that failed, as ``run.json`` describes them.
        comparisons: this run with each of others.
        seeds: rows of ``summary/seeds``: how far the headline moves with ``data.seed``.
    """

    summary: Summary
    record: Mapping[str, Any]
    certificate: Mapping[str, Any]
    num_tasks: int
    num_tasks_done: int
    num_rows_done: int
    incomplete: tuple[Incomplete, ...]
    without_baseline: tuple[str, ...]
    non_finite: tuple[str, ...]
    set_aside: tuple[Mapping[str, Any], ...]
    made: datetime
    comparisons: tuple[Comparison, ...] = ()
    seeds: tuple[Mapping[str, Any], ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names in the order of the spec."""
        known = self.record["spec"] if self.record else self.certificate
        return tuple(known["models"])

    @property
    def is_complete(self) -> bool:
        """Whether every planned task is done."""
        return self.num_tasks_done == self.num_tasks


def gather(
    inventory: Inventory,
    summary: Summary,
    record: Mapping[str, Any],
    certificate: Mapping[str, Any],
    set_aside: Sequence[Mapping[str, Any]] | None,
    comparisons: Sequence[Comparison] = (),
    seeds: Sequence[Mapping[str, Any]] = (),
) -> Facts:
    """The facts of an output.

    Args:
        record: what ``run.json`` holds; empty if it is lost.
        certificate: what ``certificate.json`` holds.
        comparisons, seeds: this run with each of others.
        set_aside: tasks that failed in the current session; None: those the last session recorded.
    """
    if set_aside is None:
        set_aside = (record.get("sessions") or [{}])[-1].get("set_aside", [])
    done = inventory.tasks_done()
    return Facts(
        summary=summary,
        record=redact_all(record),
        certificate=redact_all(certificate),
        num_tasks=len(inventory.planned),
        num_tasks_done=len(done),
        num_rows_done=sum(task.num_rows_cells for task in done),
        incomplete=_incomplete(inventory, summary),
        without_baseline=tuple(str(group) for group, _ in inventory.without_baseline()),
        non_finite=tuple(non_finite.described(inventory)),
        set_aside=tuple(redact_all(entry) for entry in set_aside),
        made=datetime.now(UTC),
        comparisons=tuple(comparisons),
        seeds=tuple(seeds),
    )


def _incomplete(inventory: Inventory, summary: Summary) -> tuple[Incomplete, ...]:
    missing: dict[Group, set[tuple[int, float]]] = defaultdict(set)
    for task in inventory.of_own_data:
        missing[task.group].update((cell.layer, cell.coeff) for cell in task.typed_cells())
    num_planned = {group: len(cells) for group, cells in missing.items()}
    for row in summary.cells.select(["model", "split", "bias_type", "layer", "coeff"]).to_pylist():
        group = group_of(row["model"], row["split"], row["bias_type"])
        missing[group].discard((row["layer"], row["coeff"]))
    return tuple(
        Incomplete(str(group), len(cells), num_planned[group])
        for group, cells in sorted(missing.items())
        if cells
    )
