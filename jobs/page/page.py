"""What the page of any job shows, and writing it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cluster.redaction import redact_all
from cluster.storage import Storage
from jobs.page.cautions import Caution, random_models
from jobs.page.matrix import Matrix
from jobs.page.provenance import Ran
from jobs.page.table import Table

PAGE_KEY = "report.html"


@dataclass(frozen=True)
class Figures:
    """Figures that the job's ``assets/figures.js`` or the shared ``views.js`` draws.

    Attributes:
        shown: each with ``name``, ``title``, ``caption`` and ``is_wide``.
        drawn: what the script reads, as plain data.
        note: a text above the figures.
        if_none: a text for a page that has no figure yet.
    """

    shown: Sequence[Any]
    drawn: Any
    note: str = ""
    if_none: str = "None yet."


@dataclass(frozen=True)
class PageContent:
    """What ``base.html.j2`` shows. Texts are plain; the template escapes them.

    Attributes:
        made: when the page was made, in UTC.
        uri: where the output is, for the commands on the page.
        question: what the job asks, in one or two sentences.
        unfinished: how far the run has come, in words; empty if it is complete.
        finding: paragraphs, each with what it is about, which may be empty.
        no_finding: what stands there if ``finding`` is empty.
        matrix: None: side effects were not measured, and the page has no such section.
        figures: None: the job draws none, and the page has no such section.
        spec_file: name under which the reader is told to save the spec.
    """

    title: str
    made: datetime
    uri: str
    ran: Ran
    question: str = ""
    unfinished: str = ""
    finding: Sequence[tuple[str, str]] = ()
    no_finding: str = "There is no complete result yet, so there is no finding."
    cautions: Sequence[Caution] = ()
    matrix: Matrix | None = None
    figures: Figures | None = None
    tables: Sequence[Table] = ()
    spec_file: str = "sweep.yaml"

    @property
    def shell_uri(self) -> str:
        """``uri`` as an argument of a command, without secrets."""
        return shlex.quote(redact_all(self.uri))


def title_of(what: str, record: Mapping[str, Any], models: Sequence[str]) -> str:
    """A page's title: what was run and the models. Names random weights, which mean nothing."""
    random = " with random weights" if random_models(record) else ""
    return f"{what}{random}: {', '.join(models)}"


def write_page(storage: Storage, page: str) -> None:
    """Write a page's HTML as the output's ``report.html``."""
    storage.replace(PAGE_KEY, page.encode())
