"""Makes ``report.html`` from facts, and writes it."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.storage import Storage
from jobs.page.render import render
from jobs.page.table import Table
from jobs.stereoset.page import tables
from jobs.stereoset.page.cautions import cautions
from jobs.stereoset.page.facts import Facts
from jobs.stereoset.page.figures import drawn
from jobs.stereoset.page.finding import finding
from jobs.stereoset.page.ran import GLOSSARY, ran

PAGE_KEY = "report.html"
_PACKAGE = "jobs.stereoset.page"


def write_page(storage: Storage, facts: Facts) -> None:
    """Write ``report.html``."""
    storage.replace(PAGE_KEY, page_of(facts).encode())


def _checked(facts: Facts) -> list[tuple[str, Mapping[str, Any]]]:
    """(Name, certificate) of each model, and of all where there are several."""
    models = list(facts.certificate["models"].items())
    return models if len(models) == 1 else [*models, ("all models", facts.certificate["overall"])]


def _tables(facts: Facts) -> Iterator[Table]:
    yield tables.compared(facts.comparison)
    for made in (tables.nulls, tables.baseline, tables.cells):
        yield made(facts.summary)


def page_of(facts: Facts) -> str:
    """The page's HTML."""
    found = finding(facts.summary)
    from plotly.offline import get_plotlyjs  # 5 MB, which only this needs

    figures = importlib.resources.files(_PACKAGE) / "assets" / "figures.js"
    return render(
        _PACKAGE,
        {
            "facts": facts,
            "checked": _checked(facts),
            "ran": ran(facts),
            "finding": found,
            "cautions": cautions(facts),
            "glance": tables.glance(facts.summary),
            "tables": [table for table in _tables(facts) if table.rows],
            "drawn": drawn(facts.summary, found.coeff).plain(),
            "glossary": GLOSSARY,
        },
        [get_plotlyjs(), figures.read_text("utf-8")],
    )
