"""The page of a job without a template or figures, and what a template changes."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.page.cautions import Caution, of_lost_record, of_random_weights
from jobs.page.page import Figures, PageContent, title_of
from jobs.page.provenance import Ran, ran_of
from jobs.page.render import render
from jobs.page.table import MISSING, Column, Table, coeff_cell, count_cell, word_cell

EVIL = "<script>alert('owned')</script>"
MADE = datetime(2026, 12, 1, 8, 30, tzinfo=UTC)
RECORD: dict[str, Any] = {
    "spec": {
        "job": "choices",
        "models": {"tiny": {"path": "embedded:gemma2-tiny", "revision": None, "dtype": "float32"}},
    },
    "identity": {"models.tiny (weights)": "fedcba9876543210ffff"},
    "started": "2026-12-01T08:00:00+00:00",
    "sessions": [
        {"started": "2026-12-01T08:00:00+00:00", "ended": "2026-12-01T08:20:00+00:00"}
        | {"host": "node", "device": "cuda", "versions": {"torch": "2.13"}}
    ],
}
TABLE = Table(
    "cells",
    "Accuracy by cell",
    (Column("model", is_number=False), Column("coefficient"), Column("n"), Column("accuracy")),
    ((word_cell("tiny"), coeff_cell(-0.5), count_cell(1200), MISSING),),
)


def content(**changes: Any) -> PageContent:
    page = PageContent(
        title=title_of("Choices", RECORD, ["tiny"]),
        made=MADE,
        uri="runs/my output",
        ran=ran_of(RECORD, [("Data", "crows_pairs.csv")], MADE, is_complete=True),
        question="Does steering move choices?",
        finding=[("tiny", "Accuracy fell by 3 points."), ("", "All cells agree.")],
        cautions=[*of_random_weights(RECORD), Caution.of("Small groups:", ["a: 3", EVIL])],
        tables=[TABLE],
    )
    return replace(page, **changes)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> str:
    """The name of a new package that has nothing but an ``__init__.py``."""
    name = f"job_of_{re.sub('[^a-z0-9]', '_', request.node.name)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return name


def text_of(page: str) -> str:
    """What a reader sees, in one line."""
    body = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_a_job_without_a_template_has_a_whole_page(package: str) -> None:
    page = render(content(), package)
    assert page.startswith("<!doctype html>")
    text = text_of(page)
    for part in (
        "Choices with random weights: tiny",
        "complete Does steering move choices?",
        "tiny. Accuracy fell by 3 points.", "All cells agree.",
        "The weights of tiny are random.", "Small groups: a: 3",
        "Accuracy by cell", "tiny \N{MINUS SIGN}0.5 1,200 \N{EN DASH}",
        "Data crows_pairs.csv", "2026-12-01 08:00:00 to 2026-12-01 08:20:00 UTC", "node (cuda)",
        "embedded:gemma2-tiny not pinned float32 weights fedcba9876543210", "Versions: torch 2.13.",
        "steersweep verify &#39;runs/my output&#39;", "steersweep report &#39;runs/my output&#39;",
        "Save the spec below as sweep.yaml", "steersweep run sweep.yaml", "job: choices",
        "Made 2026-12-01 08:30 UTC by steersweep report",
    ):  # fmt: skip
        assert part in text, part
    assert re.search(r"complete</span>\s+Does steering", page)
    assert EVIL not in page
    assert "alert(" in text


def test_without_figures_there_is_neither_a_section_nor_plotly(package: str) -> None:
    page = render(content(), package)
    assert 'id="figures"' not in page
    assert 'href="#figures"' not in page
    assert 'id="drawn"' not in page
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert [script.startswith("// Sorts a table") for script in scripts] == [True]
    assert len(page) < 50_000


def test_links_lead_to_the_sections_of_the_page(package: str) -> None:
    page = render(content(), package)
    links = re.findall(r'href="#([^"]+)"', page)
    assert links == re.findall(r'<section id="([^"]+)"', page)
    assert links == ["finding", "warnings", "tables", "ran", "verification", "again"]


def test_a_page_of_nothing_says_so(package: str) -> None:
    lost = content(
        finding=(),
        tables=(),
        cautions=list(of_lost_record({})),
        ran=Ran(),
        unfinished="0 of 4 tasks done",
    )
    text = text_of(render(lost, package))
    assert "0 of 4 tasks done" in text
    assert "complete Does steering" not in text
    assert "There is no complete result yet, so there is no finding." in text
    assert "run.json is lost, so this page cannot say what was run." in text
    assert "Tables None yet." in text
    assert "run.json is lost, and the spec with it." in text
    assert "steersweep run" not in text


def test_a_template_fills_single_blocks_and_its_script_draws_the_figures(
    package: str, tmp_path: Path
) -> None:
    assets = tmp_path / package / "assets"
    assets.mkdir()
    (assets / "page.html.j2").write_text(
        '{% extends "base.html.j2" %}'
        '{% block link_after_figures %}<a href="#extra">Extra</a>{% endblock %}'
        '{% block after_figures %}<section id="extra">{{ extra }}</section>{% endblock %}'
    )
    (assets / "figures.js").write_text("// Draws nothing.")
    figure = {"name": "one", "title": "A figure", "caption": "Of it.", "is_wide": True}
    page = render(
        content(figures=Figures([figure], {"numbers": [1, None]}, "A note.")),
        package,
        {"extra": EVIL},
        {"mine": ("#111111", "#eeeeee")},
    )
    assert '<script type="application/json" id="drawn">{"numbers":[1,null]}</script>' in page
    assert '<figure id="one" class="wide">' in page
    assert "--mine:#111111" in page
    assert EVIL not in page
    sections = re.findall(r'<section id="([^"]+)"', page)
    assert sections == re.findall(r'href="#([^"]+)"', page)
    assert sections[2:4] == ["figures", "extra"]
    scripts = re.findall(r"<script>(.*?)</script>\n", page, re.DOTALL)
    assert [script[:12] for script in scripts[-2:]] == ["// Draws not", "// Sorts a t"]
    policy = re.search(r"script-src ([^;]+);", page)
    assert policy is not None
    for script in scripts[-2:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"&#39;sha256-{digest}&#39;" in policy[1] or f"'sha256-{digest}'" in policy[1]
