"""Makes ``report.html`` from facts, and writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from cluster.storage import Storage
from jobs.page.page import Figures, PageContent, title_of
from jobs.page.page import write_page as write
from jobs.page.render import render
from jobs.page.table import Table
from jobs.page.words import typeset
from jobs.scoring.push import push_of
from jobs.side_effects.page import with_side_effects
from jobs.stereoset.headline import PAPER, sentences
from jobs.stereoset.labels import COLORS
from jobs.stereoset.page import tables
from jobs.stereoset.page.cautions import cautions
from jobs.stereoset.page.facts import Facts
from jobs.stereoset.page.figures import drawn
from jobs.stereoset.page.finding import finding
from jobs.stereoset.page.ran import STATISTICS, glossary, ran

_MOST_SENTENCES = 6
_INTENDED = (
    "Steering vectors should move choices from stereotype to anti-stereotype. Do they move "
    "anything else?"
)
_PACKAGE = "jobs.stereoset.page"


def write_page(
    storage: Storage, facts: Facts, side_effects: Mapping[str, pa.Table] | None = None
) -> None:
    """Write ``report.html``."""
    write(storage, page_of(facts, storage.uri, side_effects))


def _tables(facts: Facts) -> Iterator[Table]:
    for number, comparison in enumerate(facts.comparisons):
        yield tables.compared(comparison, number)
        yield tables.differences(comparison, number)
    yield tables.seeds(facts.seeds)
    yield tables.held_out_differences(facts.summary)
    yield tables.model_differences(facts.summary)
    for made in (
        tables.null_tests,
        tables.nulls,
        tables.dose_response,
        tables.baseline,
        tables.cells,
    ):
        yield made(facts.summary)


def page_of(
    facts: Facts, uri: str = "URI", side_effects: Mapping[str, pa.Table] | None = None
) -> str:
    """The page's HTML.

    Args:
        uri: where the output is.
        side_effects: tables of ``jobs.side_effects.tables`` by name, if they were measured.
    """
    summary = facts.summary
    found, push = finding(summary), push_of(summary.cells.to_pylist())
    figures = drawn(summary, found.coeff)
    page = PageContent(
        title=title_of("Steering sweep on StereoSet", facts.record, facts.models),
        made=facts.made,
        uri=uri,
        ran=ran(facts),
        question=_INTENDED if summary.has_intent else "What does steering move?",
        unfinished=""
        if facts.is_complete
        else f"{facts.num_tasks_done:,} of {facts.num_tasks:,} tasks done",
        no_finding="No cell is complete yet, so there is no finding.",
        cautions=cautions(facts),
        figures=Figures(figures.figures, figures.plain(), figures.note, "No cell is complete yet."),
        tables=[table for table in _tables(facts) if table.rows],
    )
    more = {
        "facts": facts,
        "finding": found,
        "push": None if push is None else push.sentence(),
        "headline": tables.headline(summary),
        "headline_sentences": [
            typeset(text) for text in sentences(summary.headline.to_pylist())[:_MOST_SENTENCES]
        ],
        "paper": PAPER,
        "glance": tables.glance(summary),
        "certificate": tables.certificate(facts),
        "statistics": STATISTICS,
        "glossary": glossary(has_intent=summary.has_intent),
    }
    return render(with_side_effects(page, side_effects), _PACKAGE, more, COLORS)
