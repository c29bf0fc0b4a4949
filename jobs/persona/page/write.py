"""Makes ``report.html`` of a persona sweep: one file that fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cluster.redaction import redact_all
from cluster.storage import Storage
from jobs.page.page import Figures, PageContent, title_of
from jobs.page.page import write_page as write
from jobs.page.render import render
from jobs.page.words import counted
from jobs.persona.comparison import Comparison
from jobs.persona.page import tables
from jobs.persona.page.answers import compared
from jobs.persona.page.cautions import cautions
from jobs.persona.page.figures import drawn
from jobs.persona.page.finding import finding
from jobs.persona.page.ran import ran
from jobs.persona.summary import PersonaSummary
from jobs.side_effects.page import with_side_effects

_PACKAGE = "jobs.persona.page"


def write_page(
    storage: Storage,
    summary: PersonaSummary,
    record: Mapping[str, Any],
    missing: str,
    certificate: Mapping[str, Any] | None = None,
    comparisons: Sequence[Comparison] = (),
    side_effects: Mapping[str, pa.Table] | None = None,
) -> None:
    """Write ``report.html``.

    Args:
        record: what ``run.json`` holds; empty if it is lost.
        missing: what is still to come, in words; empty if nothing is.
        certificate: ``overall`` of ``certificate.json``.
        comparisons: with other runs.
        side_effects: tables of ``jobs.side_effects.tables`` by name, if they were measured.
    """
    page = page_of(summary, record, missing, storage.uri, certificate, comparisons, side_effects)
    write(storage, page)


def page_of(
    summary: PersonaSummary,
    record: Mapping[str, Any],
    missing: str,
    uri: str = "URI",
    certificate: Mapping[str, Any] | None = None,
    comparisons: Sequence[Comparison] = (),
    side_effects: Mapping[str, pa.Table] | None = None,
) -> str:
    """The page's HTML; ``uri`` is where the output is, and the rest as ``write_page`` has it."""
    record, made = redact_all(record), datetime.now(UTC)
    spec = record.get("spec", {})
    all_tables = [make(summary) for make in (tables.steered, tables.projections, tables.contrast)]
    all_tables[1:1] = [tables.differences(of, n) for n, of in enumerate(comparisons)]
    figures = [figure.plain() for figure in drawn(summary)]
    traits = ", ".join(spec.get("traits", {}))
    certified = certificate_line(certificate or {})
    page = PageContent(
        title=title_of("Persona vectors", record, list(spec.get("models", {}))),
        made=made,
        uri=uri,
        ran=ran(summary, record, made, certified=certified, is_complete=not missing),
        question="Does steering with a trait's vector change how strongly answers show the trait? "
        f"Traits: {traits}",
        unfinished="not complete" if missing else "",
        finding=list(finding(summary)),
        no_finding="No steered answer has been judged yet, so there is no finding.",
        cautions=cautions(summary, record, missing, certificate or {}),
        figures=Figures(figures, figures, if_none="Nothing has been judged or projected yet."),
        tables=[table for table in all_tables if table.rows],
        spec_file="persona.yaml",
    )
    page = with_side_effects(page, side_effects)
    return render(page, _PACKAGE, {"compared": list(compared(summary)), "certified": certified})


def certificate_line(found: Mapping[str, Any]) -> str:
    """What the certificate says, in a sentence."""
    if not found.get("num_rows_checked"):
        return "No answer was computed a second time while the sweep ran."
    kept = "holds" if found["verdict"] == "holds" else "is broken"
    return (
        f"It {kept}: {counted(found['num_rows_checked'], 'answer')} recomputed with one plain "
        f"forward pass each, largest difference {found['largest_difference']:.2g} in probability "
        f"(tolerance {found['tolerance']}), "
        f"{counted(found['num_changed_choices'], 'token')} chosen otherwise."
    )
