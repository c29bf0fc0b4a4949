"""Makes ``report.html`` of a choices sweep from its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from cluster.redaction import redact_all
from jobs.choices.finding import finding
from jobs.choices.page.cautions import cautions
from jobs.choices.page.figures import drawn
from jobs.choices.page.tables import all_tables
from jobs.page.cautions import Caution
from jobs.page.page import Figures, PageContent, title_of
from jobs.page.provenance import Ran, ran_of
from jobs.page.render import render
from jobs.side_effects.page import with_side_effects

_PACKAGE = "jobs.choices.page"
_NOTE = (
    "The intervals of clear changes hold together for everything that these sentences choose "
    "from. So they are wider than those in tables and figures, which are each for one number "
    "alone. All intervals are for these steering vectors, not for vectors fitted to other examples."
)


def page_of(
    tables: Mapping[str, pa.Table],
    record: Mapping[str, Any],
    *,
    title: str = "Steering sweep on multiple-choice data",
    terms: Sequence[tuple[str, str]] = (),
    uri: str = "URI",
    unfinished: str = "",
    more_cautions: Sequence[Caution] = (),
    side_effects: Mapping[str, pa.Table] | None = None,
) -> str:
    """The page's HTML.

    Args:
        record: what ``run.json`` holds; empty if it is lost.
        title: what was run, without the models.
        terms: what the job says of data, vectors and grid: terms and texts.
        unfinished: how far the run has come, in words; empty if it is complete.
        more_cautions: what the job knows: failed tasks, a broken certificate.
        side_effects: tables of ``jobs.side_effects.tables`` by name, if they were measured.
    """
    record, made = redact_all(record), datetime.now(UTC)
    ran = ran_of(record, terms, made, is_complete=not unfinished) if record else Ran()
    sentences = finding(tables)
    figures = [figure.plain() for figure in drawn(tables)]
    page = PageContent(
        title=title_of(title, record, list(record.get("spec", {}).get("models", {}))),
        made=made,
        uri=uri,
        ran=ran,
        question="Does steering move the answers that it is meant to move? What else does it move?",
        unfinished=unfinished,
        finding=[*sentences, ("", _NOTE)] if sentences else [],
        no_finding="No coefficient is complete at all layers yet, so there is no finding.",
        cautions=[*more_cautions, *cautions(tables, record)],
        figures=Figures(figures, figures, if_none="No cell is complete yet."),
        tables=all_tables(tables),
    )
    return render(with_side_effects(page, side_effects), _PACKAGE)
