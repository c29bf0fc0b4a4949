"""Tables, page and printed result of a choices sweep, made from its stored rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cluster.checked import write_checked
from jobs.choices.output import ChoicesOutput
from jobs.choices.result import print_result
from jobs.choices.stored import StoredRows
from jobs.choices.summary import summarise
from jobs.console import warn
from jobs.scoring.non_finite import described
from jobs.scoring.sweep import adds_vector
from jobs.sweeps.certificate_file import write_certificate
from jobs.sweeps.report import ReportOptions, say_where, write_table
from jobs.words import count
from steersweep.errors import UserError

ONLY_WITH_ROWS = ("held_out", "groups", "nulls", "null_tests")
"""Tables of ``summary/`` that are not written if they have no rows."""


def report(output: ChoicesOutput, options: ReportOptions) -> dict[str, Any]:
    """Write ``summary/`` (Parquet, CSV), ``certificate.json`` and ``report.html``.

    Prints the result, a line of the certificate, and links to what was written.

    Returns:
        The printed result as plain data, unrounded.

    Raises:
        UserError: no run at this place, damaged parts, or an option that this job does not have.
    """
    if options.by is not None or options.others:
        raise UserError("--by and --compare are not available for job: choices")
    storage, inventory = output.storage, output.inventory
    rows = StoredRows(output)
    tables = summary_tables(rows)
    for name, table in tables.items():
        write_table(storage, name, table, only_with_rows=name in ONLY_WITH_ROWS)
    if rows.num_missing:
        warn(f"{count(rows.num_missing, 'row')} are not there yet; their cells are left out")
    print_result(tables)
    for line in described(inventory):
        warn(line)
    certificate = write_certificate(storage, inventory.footers())
    write_page(storage, _page(rows, tables, certificate, options))
    if options.figures:
        _draw(storage, tables)
    write_checked(storage, inventory.parts)
    say_where(storage)
    return {
        "certificate": certificate["overall"],
        "num_missing_rows": rows.num_missing,
        "result": [row for name in ("pooled", "cells") for row in tables[name].to_pylist()],
    }


def summary_tables(rows: StoredRows) -> Mapping[str, pa.Table]:
    """The tables of ``summary/`` by name.

    Raises:
        CorruptPartError: a damaged part.
        UserError: the examples are lost.
    """
    record = rows.output.record or {}
    return summarise(
        rows.sets(),
        rows.metrics,
        rows.contrast,
        seed=record.get("spec", {}).get("data", {}).get("seed", 0),
        has_direction=adds_vector(record.get("identity", {})),
    )
