"""Where the rows of each group are, from the inventory of an output."""

from __future__ import annotations

from collections import Counter, defaultdict

from jobs.scoring.groups import Group
from jobs.scoring.inventory import Inventory
from jobs.scoring.tables import STEERED
from jobs.stereoset.groups import place_of
from jobs.stereoset.scored_rows import GroupParts, Part


class PartsOfGroups:
    """The parts of an output by table and group, found in one pass over its tasks."""

    def __init__(self, inventory: Inventory) -> None:
        self._done: dict[tuple[str, Group], list[Part]] = defaultdict(list)
        self._num_baseline: Counter[Group] = Counter()
        self._planned: dict[tuple[str, str], set[Group]] = defaultdict(set)
        for task in inventory.of_own_data:
            group = task.group
            self._num_baseline[group] += "baseline" in task.tables
            for table in task.tables:
                self._planned[table, group.model].add(group)
            if task.plan_id not in inventory.done:
                continue
            task_id = inventory.task_ids[task.plan_id]
            keys = task.parts(task_id)
            for table in task.tables:
                num_rows = len(task.example_ids) * (1 if table == "baseline" else len(task.cells))
                part = Part(task.shard, task_id, keys[table], num_rows)
                self._done[table, group].append(part)

    def of(self, model: str, steered: str, label_seed: str | None = None) -> list[GroupParts]:
        """The groups of a model whose baseline is complete, sorted.

        Args:
            steered: the table with the steered rows. A group without such rows in the plan is left
                out, unless they are the main ones: its baseline is part of the summary, too.
            label_seed: of a draw of shuffled labels, which its rows are read under.
        """
        groups = self._planned[steered, model]
        if steered == STEERED:
            groups = groups | self._planned["baseline", model]
        return [
            GroupParts(
                *place_of(group),
                tuple(self._done["baseline", group]),
                tuple(self._done[steered, group]),
                label_seed,
            )
            for group in sorted(groups)
            if len(self._done["baseline", group]) == self._num_baseline[group]
        ]
