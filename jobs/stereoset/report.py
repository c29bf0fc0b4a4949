"""Tables and figures made from the results alone: written beside them; tables are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cluster.checked import write_checked
from cluster.errors import ObjectNotFoundError
from cluster.storage import Storage
from jobs.console import say, warn
from jobs.page.page import PAGE_KEY
from jobs.scoring.inventory import Inventory
from jobs.scoring.non_finite import described
from jobs.scoring.push import push_of
from jobs.side_effects.report import (
    Tables,
    on_page,
    picked_as_json,
    report_side_effects,
    side_effect_figures,
    side_effect_tables,
)
from jobs.side_effects.stored import StoredSideEffects
from jobs.stereoset.comparison import compare, compared_schema, of_seeds, print_comparisons
from jobs.stereoset.examples import store_missing_examples
from jobs.stereoset.groups import AXES
from jobs.stereoset.headline import VECTORS
from jobs.stereoset.output import StereoSetOutput
from jobs.stereoset.own_data import StereoSetData
from jobs.stereoset.page.facts import gather
from jobs.stereoset.page.write import write_page
from jobs.stereoset.result import KEYS, print_result, select
from jobs.stereoset.result import as_json as result_as_json
from jobs.stereoset.summary import Summary, summarise
from jobs.stereoset.summary_tables import HEADLINE_SCHEMA, nulls_schema, stored_table
from jobs.sweeps.certificate_file import write_certificate
from jobs.sweeps.report import ReportOptions, parse_by, say_where, write_table
from jobs.words import count


def report(output: StereoSetOutput, options: ReportOptions) -> dict[str, Any]:
    """Write ``summary/`` (Parquet, CSV), ``figures/``, ``certificate.json`` and ``report.html``.

    Prints the result, a line of the certificate, and links to what was written.

    Returns:
        The printed result as plain data, unrounded.

    Raises:
        UserError: no run at this place, damaged parts, nothing to compare with, or ``by`` names no
            column.
    """
    columns = None if options.by is None else parse_by(options.by, KEYS)
    storage, record = output.storage, output.record or {}
    inventory = output.inventory
    summary = summarise(storage, inventory)
    comparisons = [compare(storage, summary, other) for other in options.others]
    seeds = of_seeds([storage, *options.others], summary)
    for name in ("cells", "pooled", "headline", "findings", "geometry", "baseline"):
        write_table(storage, name, getattr(summary, name))
    for name in ("held_out", "held_out_pooled", "nulls", "null_tests", "dose_response"):
        write_table(storage, name, getattr(summary, name), only_with_rows=True)
    differences = [summary.differences, *(c.differences for c in comparisons)]
    write_table(storage, "differences", pa.concat_tables(differences), only_with_rows=True)
    write_table(storage, "seeds", seeds, only_with_rows=True)
    compared = [compared_schema().empty_table(), *(c.rows for c in comparisons)]
    write_table(storage, "compared", pa.concat_tables(compared), only_with_rows=True)
    side_effects = side_effects_of(output, options.pick)
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
        columns,
        held_out=summary.by_vectors["held_out"] if summary.held_out.num_rows else (),
        differences=summary.differences.to_pylist() if summary.held_out.num_rows else (),
    )
    print_comparisons(comparisons, seeds)
    report_side_effects(storage, side_effects, has_pick=options.pick is not None)
    for line in [*described(inventory), *_doses(summary)]:
        warn(line)
    certificate = write_certificate(storage, inventory.footers())
    facts = gather(
        inventory, summary, record, certificate, options.set_aside, comparisons, seeds.to_pylist()
    )
    write_page(storage, facts, on_page(side_effects))
    write_checked(storage, inventory.parts)
    store_missing_examples(storage, inventory, record)
    if options.figures:
        _draw(storage, inventory, summary, side_effects)
    say_where(storage)
    return _as_json(summary, certificate["overall"], columns) | picked_as_json(side_effects)


def side_effects_of(output: StereoSetOutput, pick: str | None = None) -> Tables:
    """The tables about side effects; raises as ``side_effect_tables``."""
    seed = output.spec.get("data", {}).get("seed", 0)
    return side_effect_tables(StoredSideEffects(output, StereoSetData(output)), AXES, pick, seed)


def _doses(summary: Summary) -> list[str]:
    push = push_of(summary.cells.to_pylist())
    return [] if push is None else push.warnings(summary.unit)


def _as_json(
    summary: Summary, certificate: Mapping[str, Any], by: frozenset[str] | None
) -> dict[str, Any]:
    return {
        "num_missing_cells": summary.num_missing,
        "certificate": certificate,
        "result": [
            row
            for vectors, rows in summary.by_vectors.items()
            for row in result_as_json(select(rows, by or frozenset()), vectors)
        ],
    }


def _draw(storage: Storage, inventory: Inventory, summary: Summary, side_effects: Tables) -> None:
    # matplotlib takes a second to load, and only figures need it.
    import pandas as pd

    from jobs.figures.write import FIGURES, write_figures
    from jobs.scoring.frames import vectors_frame
    from jobs.stereoset.figures.make import figure_names, planned_figures, what_is_drawn

    cells = summary.shown_cells.to_pandas()
    headline = summary.headline.to_pandas()
    of_nulls = pa.Table.from_pylist(summary.nulls_of(summary.shown_vectors), schema=nulls_schema())
    in_sample = pd.concat([summary.cells.to_pandas(), summary.pooled.to_pandas()])
    figures = planned_figures(
        cells,
        summary.shown_pooled.to_pandas(),
        vectors_frame(inventory.vectors, AXES),
        headline=headline[headline["vectors"] == summary.shown_vectors],
        of_nulls=of_nulls.to_pandas(),
        geometry=summary.geometry.to_pandas(),
        has_intent=summary.has_intent,
        steered_with=VECTORS[summary.shown_vectors],
        in_sample=in_sample if summary.held_out.num_rows else None,
    )
    measured = side_effect_figures(side_effects)
    write_figures(storage, {**figures, **measured}, figure_names())
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
    say_where(storage)
    return True


def _rows_if_stored(storage: Storage, name: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = stored_table(storage, name).to_pylist()
    except ObjectNotFoundError:  # it is there only if it has rows
        return []
    return rows
