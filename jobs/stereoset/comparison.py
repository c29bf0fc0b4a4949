"""Another run beside this one: the rows of the cells that both have, and what tells them apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cluster.errors import ObjectNotFoundError
from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.console import print_tables, say
from jobs.scoring.inventory import take_inventory
from jobs.stereoset.differences import DIFFERENCES_SCHEMA, differences
from jobs.stereoset.estimates import Row
from jobs.stereoset.headline import VECTORS
from jobs.stereoset.labels import CHANGES, LABELS
from jobs.stereoset.summary import Summary, stacks_of, summarise
from jobs.stereoset.summary_keys import planned_keys, widest
from jobs.stereoset.summary_tables import HEADLINE_ESTIMATES, cells_schema, stored_table
from jobs.sweeps.compared import names_of
from jobs.words import coefficient, p_value, signed
from steering_core.quantities import FAMILIES, QUANTITIES
from steersweep.errors import UserError

_KEYS = ("model", "split", "bias_type", "layer", "coeff")
_MOST_ROWS = 20

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        name, other: what each is called: the keys of its spec that the other has otherwise, as in
            ``vectors.folds 1`` and ``vectors.folds 5``; or its place.
        rows: ``compared_schema``: cells and pooled cells that both have, named by ``run``.
        differences: ``DIFFERENCES_SCHEMA``: this run minus the other, paired by target term.
    """

    name: str
    other: str
    rows: pa.Table
    differences: pa.Table


def compared_schema() -> pa.Schema:
    """The columns of cells, with the run that a row is of."""
    return pa.schema([("run", pa.string()), *cells_schema()])


def compare(storage: Storage, summary: Summary, with_run: Storage) -> Comparison:
    """This run's summary beside that of another, as its last report has left it.

    Raises:
        UserError: no run at the other place, damaged parts, or no cell that both have.
    """
    own = _by_key([*summary.cells.to_pylist(), *summary.pooled.to_pylist()])
    theirs = _by_key([row for table in _tables(with_run) for row in table.to_pylist()])
    common = [key for key in own if key in theirs]
    if not common:
        raise UserError(
            f"{with_run.uri} has no cell in common with {storage.uri}; compare runs whose models "
            "have the same names and that share splits, bias types, layers and coefficients"
        )
    name, other = names_of(storage, with_run)
    rows = [{"run": run, **of[key]} for key in common for run, of in ((name, own), (other, theirs))]
    return Comparison(
        name,
        other,
        pa.Table.from_pylist(rows, schema=compared_schema()),
        pa.Table.from_pylist(
            list(_differences(storage, with_run, name, other)), schema=DIFFERENCES_SCHEMA
        ),
    )


def _differences(storage: Storage, with_run: Storage, name: str, other: str) -> Iterator[Row]:
    inventories = [take_inventory(run) for run in (storage, with_run)]
    mine, theirs = (planned_keys(inventory.of_own_data).keys() for inventory in inventories)
    models = sorted(mine & theirs)
    sides = (
        stacks_of(run, inventory, models)
        for run, inventory in zip((storage, with_run), inventories, strict=True)
    )
    for model, one, another in zip(models, *sides, strict=True):
        yield from differences("runs", (name, *one), (other, *another), model=model)


SEEDS_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("split", pa.string()),
        ("coeff", pa.float64()),
        ("vectors", pa.string()),
        ("estimate", pa.string()),
        ("num_runs", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "sd", "smallest", "largest")),
    ]
)
"""How far the headline moves with the subset of examples that ``data.seed`` draws."""


def of_seeds(runs: Sequence[Storage], summary: Summary) -> pa.Table:
    """Mean and spread of the headline over runs that differ only in ``data.seed``; else no rows.

    Args:
        runs: this run, whose summary is given, and others.
    """
    identities = [dict((Ledger(run).read_record() or {}).get("identity", {})) for run in runs]
    seeds = [identity.pop("data.seed", None) for identity in identities]
    are_alike = all(identity == identities[0] for identity in identities)
    if len(runs) < 2 or not are_alike or len(set(seeds)) < len(seeds):
        return SEEDS_SCHEMA.empty_table()
    tables = [summary.headline, *(_headline(run) for run in runs[1:])]
    by_key: dict[tuple[Any, ...], list[_Row]] = {}
    for row in (row for table in tables for row in table.to_pylist()):
        by_key.setdefault(tuple(row[key] for key in SEEDS_SCHEMA.names[:4]), []).append(row)
    rows = []
    for key, of_key in by_key.items():
        for estimate in HEADLINE_ESTIMATES:
            values = [row[estimate] for row in of_key if row[estimate] is not None]
            if len(values) == len(runs):
                spread = {
                    "mean": statistics.fmean(values),
                    "sd": statistics.stdev(values),
                    "smallest": min(values),
                    "largest": max(values),
                }
                place = dict(zip(SEEDS_SCHEMA.names, (*key, estimate, len(runs)), strict=False))
                rows.append(place | spread)
    return pa.Table.from_pylist(rows, schema=SEEDS_SCHEMA)


def _headline(storage: Storage) -> pa.Table:
    try:
        return stored_table(storage, "headline")
    except ObjectNotFoundError:
        return summarise(storage, take_inventory(storage)).headline


def print_comparisons(comparisons: Sequence[Comparison], seeds: pa.Table) -> None:
    """Print the differences of the widest rows, and how far the headline moves with the seed."""
    for comparison in comparisons:
        rows = [r for r in comparison.differences.to_pylist() if r["estimate"] == CHANGES[0]]
        say(f"\n{comparison.name} minus {comparison.other} (paired by target term)")
        shown = [
            [
                f"{row['model']}, {row['split']}, {row['bias_type']}",
                "all" if row["layer"] is None else str(row["layer"]),
                coefficient(row["coeff"]),
                f"{signed(row['difference'])} ({signed(row['low'])}, {signed(row['high'])})",
                p_value(row["p"]),
            ]
            for of_model in widest(rows).values()
            for row in of_model
        ]
        columns = ("", "layer", "coeff", f"{LABELS[CHANGES[0]]} (95 % interval)", "p")
        print_tables(columns, [("", shown[:_MOST_ROWS])])
    _print_seeds(seeds.to_pylist())


def _print_seeds(rows: Sequence[_Row]) -> None:
    if not rows:
        return
    say(f"\nThe paper's headline over {rows[0]['num_runs']} seeds")
    rise, change = QUANTITIES["anti_rise_percent"], QUANTITIES[CHANGES[0]]
    shown = {
        f"{rise.heading}, {rise.scale.unit}": ("anti_rise_percent", rise.scale.digits),
        f"{change.label}, {FAMILIES[0].unit}": (CHANGES[0], change.scale.digits),
    }
    tables = [
        (
            f"\n{title}",
            [
                [
                    f"{row['model']}, {row['split']}, {VECTORS[row['vectors']]}",
                    coefficient(row["coeff"]),
                    *(f"{row[name]:+.{digits}f}" for name in ("mean", "smallest", "largest")),
                    f"{row['sd']:.{digits}f}",
                ]
                for row in rows
                if row["estimate"] == estimate
            ][:_MOST_ROWS],
        )
        for title, (estimate, digits) in shown.items()
    ]
    columns = ("", "coeff", "mean", "smallest", "largest", "sd")
    print_tables(columns, [(title, of_title) for title, of_title in tables if of_title])


def _by_key(rows: list[_Row]) -> dict[tuple[Any, ...], _Row]:
    return {tuple(row[key] for key in _KEYS): row for row in rows}


def _tables(storage: Storage) -> list[pa.Table]:
    try:
        return [stored_table(storage, name) for name in ("cells", "pooled")]
    except ObjectNotFoundError:
        summary = summarise(storage, take_inventory(storage))
        return [summary.cells, summary.pooled]
