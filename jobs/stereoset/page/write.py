"""Makes ``report.html`` from facts, and writes it."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.storage import Storage
from jobs.page.cautions import random_models
from jobs.page.render import render
from jobs.page.table import Table
from jobs.page.words import typeset
from jobs.stereoset.headline import PAPER, sentences
from jobs.stereoset.labels import COLORS
from jobs.stereoset.page import tables
from jobs.stereoset.page.cautions import cautions
from jobs.stereoset.page.facts import Facts
from jobs.stereoset.page.figures import drawn
from jobs.stereoset.page.finding import finding
from jobs.stereoset.page.ran import STATISTICS, glossary, ran
from jobs.stereoset.push import push_of

PAGE_KEY = "report.html"
_MOST_SENTENCES = 6
_PACKAGE = "jobs.stereoset.page"


def write_page(storage: Storage, facts: Facts) -> None:
    """Write ``report.html``."""
    storage.replace(PAGE_KEY, page_of(facts).encode())


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


def page_of(facts: Facts) -> str:
    """The page's HTML."""
    found = finding(facts.summary)
    push = push_of(facts.summary.cells.to_pylist())
    return render(
        _PACKAGE,
        {
            "title": _title(facts),
            "made": facts.made,
            "facts": facts,
            "ran": ran(facts),
            "finding": found,
            "push": None if push is None else push.sentence(),
            "cautions": cautions(facts),
            "headline": tables.headline(facts.summary),
            "headline_sentences": [
                typeset(text)
                for text in sentences(facts.summary.headline.to_pylist())[:_MOST_SENTENCES]
            ],
            "paper": PAPER,
            "glance": tables.glance(facts.summary),
            "tables": [table for table in _tables(facts) if table.rows],
            "certificate": tables.certificate(facts),
            "drawn": drawn(facts.summary, found.coeff).plain(),
            "statistics": STATISTICS,
            "glossary": glossary(has_intent=facts.summary.has_intent),
        },
        COLORS,
    )


def _title(facts: Facts) -> str:
    random = " with random weights" if random_models(facts.record) else ""
    return f"Steering sweep on StereoSet{random}: {', '.join(facts.models)}"
