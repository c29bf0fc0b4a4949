"""Another run beside this one: the rows of the cells that both have, and what tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cluster.errors import ObjectNotFoundError, UserActionError
from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.stereoset.differences import DIFFERENCES_SCHEMA, differences
from jobs.stereoset.estimates import Row
from jobs.stereoset.inventory import take_inventory
from jobs.stereoset.summary import Summary, stacks_of, summarise
from jobs.stereoset.summary_tables import CELLS_SCHEMA, stored_table

COMPARED_SCHEMA = pa.schema([("run", pa.string()), *CELLS_SCHEMA])
_KEYS = ("model", "split", "bias_type", "layer", "coeff")
_MOST_KEYS_NAMED = 3

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        name, other: what each is called: the keys of its spec that the other has otherwise, as in
            ``vectors.folds 1`` and ``vectors.folds 5``; or its place.
        rows: ``COMPARED_SCHEMA``: cells and pooled cells that both have, named by ``run``.
        differences: ``DIFFERENCES_SCHEMA``: this run minus the other, paired by target term.
    """

    name: str
    other: str
    rows: pa.Table
    differences: pa.Table


def compare(storage: Storage, summary: Summary, with_run: Storage) -> Comparison:
    """This run's summary beside that of another, as its last report has left it.

    Raises:
        UserActionError: no run at the other place, damaged parts, or no cell that both have.
    """
    own = _by_key([*summary.cells.to_pylist(), *summary.pooled.to_pylist()])
    theirs = _by_key([row for table in _tables(with_run) for row in table.to_pylist()])
    common = [key for key in own if key in theirs]
    if not common:
        raise UserActionError(
            f"{with_run.uri} has no cell in common with {storage.uri}; compare runs whose models "
            "have the same names and that share splits, bias types, layers and coefficients"
        )
    name, other = _names(storage, with_run)
    rows = [{"run": run, **of[key]} for key in common for run, of in ((name, own), (other, theirs))]
    return Comparison(
        name,
        other,
        pa.Table.from_pylist(rows, schema=COMPARED_SCHEMA),
        pa.Table.from_pylist(
            list(_differences(storage, with_run, name, other)), schema=DIFFERENCES_SCHEMA
        ),
    )


def _differences(storage: Storage, with_run: Storage, name: str, other: str) -> Iterator[Row]:
    mine, theirs = (stacks_of(run, take_inventory(run)) for run in (storage, with_run))
    for model in sorted(mine.keys() & theirs.keys()):
        sides = (name, *mine[model]), (other, *theirs[model])
        yield from differences("runs", *sides, model=model)


def _by_key(rows: list[_Row]) -> dict[tuple[Any, ...], _Row]:
    return {tuple(row[key] for key in _KEYS): row for row in rows}


def _tables(storage: Storage) -> list[pa.Table]:
    try:
        return [stored_table(storage, name) for name in ("cells", "pooled")]
    except ObjectNotFoundError:
        summary = summarise(storage, take_inventory(storage))
        return [summary.cells, summary.pooled]


def _names(one: Storage, other: Storage) -> tuple[str, str]:
    before, after = (
        (Ledger(storage).read_record() or {}).get("identity", {}) for storage in (one, other)
    )
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if not 0 < len(keys) <= _MOST_KEYS_NAMED:
        return one.uri, other.uri
    mine, theirs = (
        ", ".join(f"{key} {str(of.get(key))[:20]}" for key in keys) for of in (before, after)
    )
    return mine, theirs
