"""How console, page and figures write the numbers of a choices summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from jobs.page.shown import UNITS, Shown, shown_of
from jobs.page.words import PERCENT

SIGNIFICANT = 0.05
VECTORS = {"in_sample": "in-sample", "held_out": "held-out", "file": "from a file"}
STEERED_WITH = {
    "in_sample": "With in-sample vectors, which were fitted to the examples that they steer",
    "held_out": "With held-out vectors",
    "file": "With vectors from a file",
}

Row = Mapping[str, Any]

CHANGED = Shown("changed", "changed choices", *UNITS["share"])


def shown_metrics(tables: Mapping[str, pa.Table]) -> dict[str, Shown]:
    """The metrics of a summary by key, in their order."""
    return {row["metric"]: shown_of(row) for row in tables["metrics"].to_pylist()}


def has_estimate(row: Row, name: str) -> bool:
    """Whether a row has a number and its interval."""
    return all(row.get(f"{name}{end}") is not None for end in ("", "_low", "_high"))


def interval(shown: Shown, row: Row, name: str) -> str:
    """``95 % interval 1.2 to 3.4``, of a row that has one."""
    return f"95{PERCENT} interval {shown.range(row[f'{name}_low'], row[f'{name}_high'])}"


def widest(tables: Mapping[str, pa.Table]) -> list[Row]:
    """Steered rows over all fits and layers of each model and kind of vectors, by coefficient.

    A sweep with one fit or one layer has these rows among its cells; one that is not complete may
    have none.
    """
    single = [*tables["cells"].to_pylist(), *tables["held_out"].to_pylist()]
    fits, layers = ({(row["model"], row[axis]) for row in single} for axis in ("fit", "layer"))

    def is_whole(row: Row) -> bool:
        def is_only(axis: str, found: set[tuple[str, Any]]) -> bool:
            return row[axis] is None or sum(model == row["model"] for model, _ in found) == 1

        return is_only("fit", fits) and is_only("layer", layers)

    rows = [row for row in (*tables["pooled"].to_pylist(), *single) if is_whole(row)]
    return sorted(rows, key=lambda row: (row["model"], row["coeff"], row["vectors"]))
