"""Rows with a score that is not finite: kept as they are, counted in each part's footer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.scoring.groups import Group, ScoredExample
from jobs.scoring.inventory import Inventory
from jobs.scoring.rows import KL_FIELD, RowFormat
from steering_core.pooled import PooledStates
from steersweep.errors import UserError

FOOTER_KEY = "num_non_finite"


def counted(rows: pa.Table, form: RowFormat[Any]) -> pa.Table:
    """The rows with their count in the schema's metadata, which a part keeps in its footer."""
    is_finite = form.is_finite(rows)
    if KL_FIELD.name in rows.column_names:
        is_finite &= np.isfinite(rows[KL_FIELD.name].to_numpy())
    metadata = rows.schema.metadata or {}
    return rows.replace_schema_metadata({**metadata, FOOTER_KEY: str((~is_finite).sum())})


def count_of(metadata: Mapping[str, str]) -> int:
    """The count in a footer's metadata; 0 for a part that has no scores."""
    return int(metadata.get(FOOTER_KEY, "0"))


def count_by_group(inventory: Inventory) -> dict[Group, tuple[int, int]]:
    """(Rows that are not finite, rows) of the groups that have any, over all parts that are done.

    A row is one example in one cell, or in the baseline.
    """
    bad: Counter[Group] = Counter()
    rows: Counter[Group] = Counter()
    for task in inventory.tasks_done():
        for key in task.parts(inventory.task_ids[task.plan_id]).values():
            bad[task.group] += count_of(inventory.parts[key].metadata)
        rows[task.group] += task.num_rows_cells
    return {group: (bad[group], rows[group]) for group in sorted(bad) if bad[group]}


def described(inventory: Inventory) -> Iterator[str]:
    """A line for each group that has rows which are not finite."""
    for group, (num_bad, num_rows) in count_by_group(inventory).items():
        yield (
            f"{group}: {num_bad:,} of {num_rows:,} rows have a score that is not finite; they are "
            "stored, but left out of means"
        )


def require_finite(pooled: PooledStates, examples: Sequence[ScoredExample], dtype: str) -> None:
    """Refuse pooled states from which no vector can be made.

    Raises:
        UserError: names the first example and layer.
    """
    is_finite = np.isfinite(pooled.differences).all(axis=-1)
    if not is_finite.all():
        layer, row = np.argwhere(~is_finite)[0]
        raise UserError(
            f"the hidden states of example {examples[row].example_id} are not finite at layer "
            f"{pooled.layers[layer]} in {dtype}; use a dtype with a wider range, or another model"
        )
