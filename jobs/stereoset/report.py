"""Tables and figures made from the results alone: written beside them; tables are printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cluster.checked import write_checked
from cluster.errors import ObjectNotFoundError
from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.console import detail, link, say, warn
from jobs.page.page import PAGE_KEY
from jobs.stereoset.certificate_file import CERTIFICATE_KEY, write_certificate
from jobs.stereoset.comparison import COMPARED_SCHEMA, compare, of_seeds, print_comparisons
from jobs.stereoset.examples import store_missing_examples
from jobs.stereoset.headline import VECTORS
from jobs.stereoset.inventory import Inventory, take_inventory
from jobs.stereoset.non_finite import described
from jobs.stereoset.page.facts import gather
from jobs.stereoset.page.write import write_page
from jobs.stereoset.push import push_of
from jobs.stereoset.result import as_json as result_as_json
from jobs.stereoset.result import print_result, select
from jobs.stereoset.summary import Summary, summarise
from jobs.stereoset.summary_tables import HEADLINE_SCHEMA, NULLS_SCHEMA, stored_table
from jobs.words import count


def report(
    storage: Storage,
    set_aside: Sequence[Mapping[str, Any]] | None = None,
    *,
    figures: bool = True,
    beside: Sequence[Storage] = (),
    by: frozenset[str] | None = None,
) -> Summary:
    """Write ``summary/`` (Parquet, CSV), ``figures/``, ``certificate.json`` and ``report.html``.

    Prints the result, a line of the certificate, and links to what was written.

    Args:
        set_aside: what failed in the session under way; None: what the last session wrote down.
        figures: whether to draw them.
        beside: other runs, to compare with this one.
        by: columns that the printed result separates; None: its short form.

    Raises:
        UserError: no run at this place, or damaged parts; or nothing to compare with.
    """
    record = Ledger(storage).read_record() or {}
    inventory = take_inventory(storage)
    summary = summarise(storage, inventory)
    comparisons = [compare(storage, summary, other) for other in beside]
    seeds = of_seeds([storage, *beside], summary)
    for name in ("cells", "pooled", "headline", "findings", "geometry", "baseline"):
        _write(storage, name, getattr(summary, name))
    for name in ("held_out", "held_out_pooled", "nulls", "null_tests", "dose_response"):
        _write(storage, name, getattr(summary, name), only_with_rows=True)
    differences = [summary.differences, *(c.differences for c in comparisons)]
    _write(storage, "differences", pa.concat_tables(differences), only_with_rows=True)
    _write(storage, "seeds", seeds, only_with_rows=True)
    compared = [COMPARED_SCHEMA.empty_table(), *(c.rows for c in comparisons)]
    _write(storage, "compared", pa.concat_tables(compared), only_with_rows=True)
    if summary.num_missing:
        warn(
            f"{summary.num_missing:,} of {summary.num_missing + summary.num_complete:,} cells are "
            "not complete yet and are left out"
        )
    for group, num_missing in inventory.without_baseline():
        warn(
            f"{group} has steered rows but lacks {count(num_missing, 'part')} of its baseline; "
            "`steersweep run` with the same spec recomputes it"
        )
    print_result(
        summary.cells,
        summary.pooled,
        summary.headline,
        by,
        held_out=summary.by_vectors["held_out"] if summary.held_out.num_rows else (),
        differences=summary.differences.to_pylist() if summary.held_out.num_rows else (),
    )
    print_comparisons(comparisons, seeds)
    for line in [*described(inventory), *_doses(summary)]:
        warn(line)
    certificate = write_certificate(storage, inventory)
    facts = gather(
        inventory, summary, record, certificate, set_aside, comparisons, seeds.to_pylist()
    )
    write_page(storage, facts)
    write_checked(storage, inventory.parts)
    store_missing_examples(storage, inventory, record)
    if figures:
        _draw(storage, inventory, summary)
    _say_where(storage)
    return summary


def _doses(summary: Summary) -> list[str]:
    push = push_of(summary.cells.to_pylist())
    return [] if push is None else push.warnings(summary.unit)


def as_json(storage: Storage, summary: Summary, by: frozenset[str] | None) -> dict[str, Any]:
    """The printed result as plain data, unrounded; of a report that was just made."""
    certificate = json.loads(storage.read(CERTIFICATE_KEY))
    return {
        "num_missing_cells": summary.num_missing,
        "certificate": certificate["overall"],
        "result": [
            row
            for vectors, rows in summary.by_vectors.items()
            for row in result_as_json(select(rows, by or frozenset()), vectors)
        ],
    }


def _write(storage: Storage, name: str, table: pa.Table, *, only_with_rows: bool = False) -> None:
    """Write a table of ``summary/``; what an earlier report left goes where it has no rows now."""
    keys = {kind: f"summary/{name}.{kind}" for kind in ("parquet", "csv")}
    if only_with_rows and not table.num_rows:
        for key in keys.values():
            storage.delete(key)
        return
    detail(f"writing {storage.uri_of(keys['parquet'])} ({count(table.num_rows, 'row')})")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.replace(keys["parquet"], sink.getvalue().to_pybytes())
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink)
    storage.replace(keys["csv"], sink.getvalue().to_pybytes())


def _draw(storage: Storage, inventory: Inventory, summary: Summary) -> None:
    # matplotlib takes a second to load, and only figures need it.
    import pandas as pd

    from jobs.figures.write import FIGURES, write_figures
    from jobs.stereoset.figures.make import NAMES, planned_figures, what_is_drawn
    from jobs.stereoset.frames import vectors_frame

    cells = summary.shown_cells.to_pandas()
    headline = summary.headline.to_pandas()
    of_nulls = pa.Table.from_pylist(summary.nulls_of(summary.shown_vectors), schema=NULLS_SCHEMA)
    in_sample = pd.concat([summary.cells.to_pandas(), summary.pooled.to_pandas()])
    figures = planned_figures(
        cells,
        summary.shown_pooled.to_pandas(),
        vectors_frame(inventory.vectors),
        headline=headline[headline["vectors"] == summary.shown_vectors],
        of_nulls=of_nulls.to_pandas(),
        geometry=summary.geometry.to_pandas(),
        has_intent=summary.has_intent,
        steered_with=VECTORS[summary.shown_vectors],
        in_sample=in_sample if summary.held_out.num_rows else None,
    )
    write_figures(storage, figures, NAMES)
    say(f"figures: {storage.uri_of(FIGURES)} ({what_is_drawn(figures, cells)})")


def show(storage: Storage) -> bool:
    """Print the cells that the last report has left; False where it has not left all."""
    if next(iter(storage.list(PAGE_KEY)), None) is None:
        return False
    try:
        cells, pooled = (stored_table(storage, name) for name in ("cells", "pooled"))
    except ObjectNotFoundError:
        return False
    try:
        headline = stored_table(storage, "headline")
    except ObjectNotFoundError:  # a report of an earlier version has none
        headline = HEADLINE_SCHEMA.empty_table()
    held_out, held_out_pooled, differences = (
        _rows_if_stored(storage, name) for name in ("held_out", "held_out_pooled", "differences")
    )
    print_result(
        cells, pooled, headline, held_out=[*held_out, *held_out_pooled], differences=differences
    )
    _say_where(storage)
    return True


def _rows_if_stored(storage: Storage, name: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = stored_table(storage, name).to_pylist()
    except ObjectNotFoundError:  # it is there only if it has rows
        return []
    return rows


def _say_where(storage: Storage) -> None:
    say(f"tables:  {storage.uri_of('summary')}")
    say(f"page:    {link(storage.uri_of(PAGE_KEY))}")
