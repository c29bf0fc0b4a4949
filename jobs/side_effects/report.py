"""The part of a report that is about side effects: tables, printed result, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.storage import Storage
from jobs.side_effects.console import print_picked, print_side_effects
from jobs.side_effects.pick import parse_pick, picked
from jobs.side_effects.stored import StoredSets
from jobs.side_effects.summary import summarise
from jobs.side_effects.tables import (
    MEASURES_SCHEMA,
    fidelity_schema,
    picked_schema,
    prompt_matches_schema,
    side_effects_schema,
)
from jobs.sweeps.report import write_table

if TYPE_CHECKING:
    from jobs.figures.drawing import Drawing

Tables = Mapping[str, pa.Table]

SIDE_EFFECT_TABLES = ("side_effects", "measures", "fidelity", "prompt_matches", "picked")
"""Tables of ``summary/`` that are there only if they have rows."""


def side_effect_tables(
    stored: StoredSets, axes: Sequence[str], pick: str | None = None, seed: int = 0
) -> Tables:
    """The tables of ``summary/`` about side effects, by name; empty tables if none were measured.

    Args:
        axes: what tells the groups of a model apart.
        pick: a condition on a change, such as ``s2a >= 0.1``: also choose steerings by it. The
            sweep's own data alone is enough for that.
        seed: for the halves of the clusters that choose and confirm.

    Raises:
        UserError: the condition cannot be read, or names no metric.
        CorruptPartError: a damaged part.
    """
    condition = None if pick is None else parse_pick(pick)
    if not stored.has_any and condition is None:
        return _empty(axes)
    summary = summarise(stored.measured(), axes)
    chosen = {} if condition is None else {"picked": picked(summary, condition, seed)}
    return {**_empty(axes), **summary.tables(), **chosen}


def _empty(axes: Sequence[str]) -> Tables:
    schemas = {
        "side_effects": side_effects_schema(axes),
        "measures": MEASURES_SCHEMA,
        "fidelity": fidelity_schema(axes),
        "prompt_matches": prompt_matches_schema(axes),
        "picked": picked_schema(axes),
    }
    return {name: schema.empty_table() for name, schema in schemas.items()}


def report_side_effects(storage: Storage, tables: Tables, *, has_pick: bool) -> None:
    """Write the tables, those with rows, and print what they say."""
    for name, table in tables.items():
        write_table(storage, name, table, only_with_rows=True)
    if tables["side_effects"].num_rows:
        print_side_effects(tables)
    if has_pick:
        print_picked(tables["picked"])


def on_page(tables: Tables) -> Tables | None:
    """What a page shows of the tables; None if nothing was measured."""
    return tables if tables["side_effects"].num_rows else None


def side_effect_figures(tables: Tables) -> Mapping[str, Drawing]:
    """Figures by name, still to be drawn; none if nothing was measured."""
    # matplotlib takes a second to load, and only figures need it.
    from jobs.side_effects.figures import planned_figures

    return planned_figures(tables) if tables["side_effects"].num_rows else {}


def picked_as_json(tables: Tables) -> dict[str, Any]:
    """The steerings that were picked, as plain data."""
    return {"picked": tables["picked"].to_pylist()}
