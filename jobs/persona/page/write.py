"""Makes ``report.html`` of a persona sweep: one file that fetches nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cluster.redaction import redact_all
from cluster.storage import Storage
from jobs.page.cautions import random_models
from jobs.page.render import render
from jobs.persona.page import tables
from jobs.persona.page.answers import compared
from jobs.persona.page.cautions import cautions
from jobs.persona.page.figures import drawn
from jobs.persona.page.finding import finding
from jobs.persona.page.ran import ran
from jobs.persona.summary import PersonaSummary

PAGE_KEY = "report.html"
_PACKAGE = "jobs.persona.page"


def write_page(
    storage: Storage,
    summary: PersonaSummary,
    record: Mapping[str, Any],
    missing: str,
) -> None:
    """Write ``report.html``.

    Args:
        record: what ``run.json`` holds; empty if it is lost.
        missing: what is still to come, in words; empty if nothing is.
    """
    page = page_of(summary, record, missing, storage.uri)
    storage.replace(PAGE_KEY, page.encode())


def page_of(
    summary: PersonaSummary, record: Mapping[str, Any], missing: str, uri: str = "URI"
) -> str:
    """The page's HTML; ``uri`` is where the output is."""
    record, made = redact_all(record), datetime.now(UTC)
    spec = record.get("spec", {})
    random = " with random weights" if random_models(record) else ""
    all_tables = [made_of(summary) for made_of in (tables.steered, tables.projections)]
    return render(
        _PACKAGE,
        {
            "title": f"Persona vectors{random}: {', '.join(spec.get('models', {}))}",
            "made": made,
            "traits": list(spec.get("traits", {})),
            "missing": missing,
            "finding": list(finding(summary)),
            "cautions": cautions(summary, record, missing),
            "drawn": [figure.plain() for figure in drawn(summary)],
            "compared": list(compared(summary)),
            "tables": [of for of in (*all_tables, tables.contrast(summary)) if of.rows],
            "ran": ran(summary, record, made, is_complete=not missing),
            "uri": shlex.quote(redact_all(uri)),
        },
    )
