"""Tables, page and printed result of a choices sweep, made from its stored rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.checked import write_checked
from jobs.choices.output import ChoicesOutput
from jobs.choices.own_data import ChoicesData
from jobs.choices.page.ran import terms
from jobs.choices.page.write import page_of
from jobs.choices.resolve import AXES
from jobs.choices.result import print_result
from jobs.choices.stored import StoredRows
from jobs.choices.summary import summarise
from jobs.console import say, warn
from jobs.page.cautions import Caution, of_certificate
from jobs.page.page import write_page
from jobs.scoring.non_finite import described
from jobs.scoring.sweep import adds_vector
from jobs.side_effects.report import (
    SIDE_EFFECT_TABLES,
    Tables,
    on_page,
    picked_as_json,
    report_side_effects,
    side_effect_figures,
    side_effect_tables,
)
from jobs.side_effects.stored import StoredSideEffects
from jobs.sweeps.certificate_file import write_certificate
from jobs.sweeps.report import ReportOptions, say_where, write_table
from jobs.sweeps.status import set_aside_words
from jobs.words import count

ONLY_WITH_ROWS = ("held_out", "groups", "nulls", "null_tests", *SIDE_EFFECT_TABLES)
"""Tables of ``summary/`` that are not written if they have no rows."""


def report(output: ChoicesOutput, options: ReportOptions) -> dict[str, Any]:
    """Write ``summary/`` (Parquet, CSV), ``certificate.json`` and ``report.html``.

    Prints the result, a line of the certificate, and links to what was written.

    Returns:
        The printed result as plain data, unrounded.

    Raises:
        UserError: no run at this place, damaged parts, or an option that this job does not have.
    """
    options.refuse("choices", "by", "compare")
    storage, inventory = output.storage, output.inventory
    rows = StoredRows(output)
    tables = summary_tables(rows)
    side_effects = side_effects_of(output, options.pick)
    for name, table in tables.items():
        write_table(storage, name, table, only_with_rows=name in ONLY_WITH_ROWS)
    if rows.tables.num_missing:
        warn(f"{count(rows.tables.num_missing, 'row')} are not there yet; their cells are left out")
    print_result(tables)
    report_side_effects(storage, side_effects, has_pick=options.pick is not None)
    for line in described(inventory):
        warn(line)
    certificate = write_certificate(storage, inventory.footers())
    write_page(storage, _page(rows, tables, side_effects, certificate["overall"], options))
    if options.figures:
        _draw(output, tables, side_effects)
    write_checked(storage, inventory.parts)
    say_where(storage)
    return {
        "certificate": certificate["overall"],
        "num_missing_rows": rows.tables.num_missing,
        "result": [row for name in ("pooled", "cells") for row in tables[name].to_pylist()],
        **picked_as_json(side_effects),
    }


def side_effects_of(output: ChoicesOutput, pick: str | None = None) -> Tables:
    """The tables about side effects; raises as ``side_effect_tables``."""
    seed = output.spec.get("data", {}).get("seed", 0)
    return side_effect_tables(StoredSideEffects(output, ChoicesData(output)), AXES, pick, seed)


def summary_tables(rows: StoredRows) -> Tables:
    """The tables of ``summary/`` by name.

    Raises:
        CorruptPartError: a damaged part.
        UserError: the examples are lost.
    """
    record = rows.output.record or {}
    return summarise(
        rows.sets(),
        rows.output.metrics,
        rows.output.contrast,
        seed=record.get("spec", {}).get("data", {}).get("seed", 0),
        has_direction=adds_vector(record.get("identity", {})),
    )


def _page(
    rows: StoredRows,
    tables: Tables,
    side_effects: Tables,
    certificate: Mapping[str, Any],
    options: ReportOptions,
) -> str:
    output = rows.output
    record, set_aside = output.record or {}, list(options.set_aside or ())
    if options.set_aside is None:
        set_aside = list(output.last_session.get("set_aside", []))
    missing = ""
    stored = rows.tables
    if stored.num_missing:
        num_missing = count(stored.num_missing, "row")
        missing = f"{num_missing} of {stored.num_planned:,} are still to come"
    more = [*of_certificate(certificate)]
    if set_aside:
        places = [set_aside_words(task) for task in set_aside]
        more.append(Caution.of(f"{count(len(places), 'task')} failed; rows are missing:", places))
    return page_of(
        tables,
        record,
        title=f"Steering sweep on {rows.output.dataset.title}",
        terms=terms(record, rows.output.contrast, len(output.examples)),
        uri=output.storage.uri,
        unfinished=missing,
        more_cautions=more,
        side_effects=on_page(side_effects),
    )


def _draw(output: ChoicesOutput, tables: Tables, side_effects: Tables) -> None:
    # matplotlib takes a second to load, and only figures need it.
    from jobs.choices.figures import NAMES, planned_figures
    from jobs.figures.write import FIGURES, write_figures

    drawings = {**planned_figures(tables), **side_effect_figures(side_effects)}
    write_figures(output.storage, drawings, NAMES)
    if drawings:
        say(f"figures: {output.storage.uri_of(FIGURES)} ({', '.join(drawings)})")
