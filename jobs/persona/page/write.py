"""Makes ``report.html`` of a persona sweep: one file that fetches nothing."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import yaml

from cluster.redaction import redact_all
from cluster.storage import Storage
from jobs.page.render import render
from jobs.page.table import Cell, Column, Table
from jobs.persona.page.figures import drawn
from jobs.persona.page.finding import cautions, finding, strongest
from jobs.persona.summary import PersonaSummary

PAGE_KEY = "report.html"
_PACKAGE = "jobs.persona.page"
_MOST_EXAMPLES = 5
_MOST_CHARACTERS = 600


def write_page(
    storage: Storage,
    summary: PersonaSummary,
    record: Mapping[str, Any],
    missing: str,
) -> None:
    """Write ``report.html``.

    Args:
        record: what ``run.json`` holds; empty where it is lost.
        missing: what is still to come, in words; empty where nothing is.
    """
    storage.replace(PAGE_KEY, page_of(summary, record, missing).encode())


def page_of(summary: PersonaSummary, record: Mapping[str, Any], missing: str) -> str:
    """The page's HTML."""
    from plotly.offline import get_plotlyjs  # 5 MB, which only this needs

    record = redact_all(record)
    spec = record.get("spec", {})
    script = importlib.resources.files(_PACKAGE) / "assets" / "figures.js"
    return render(
        _PACKAGE,
        {
            "models": list(spec.get("models", {})),
            "traits": list(spec.get("traits", {})),
            "missing": missing,
            "finding": list(finding(summary)),
            "cautions": list(cautions(summary, missing)),
            "drawn": [figure.plain() for figure in drawn(summary)],
            "examples": list(_examples(summary)),
            "tables": [table for table in (_steered(summary), _contrast(summary)) if table.rows],
            "spec": yaml.safe_dump(spec, sort_keys=False, allow_unicode=True) if spec else "",
            "versions": (record.get("sessions") or [{}])[-1].get("versions", {}),
            "made": datetime.now(UTC),
        },
        [get_plotlyjs(), script.read_text("utf-8")],
    )


def _examples(summary: PersonaSummary) -> Iterator[Table]:
    """Answers to the same questions over coefficients, where the trait is strongest."""
    if summary.steered.empty:
        return
    answers = summary.answers[summary.answers["phase"] == "steered"]
    for (model, trait), rows in summary.steered.groupby(["model", "trait"]):
        best = strongest(rows)
        best = rows.iloc[0] if best is None else best
        at = answers[
            (answers["model"] == model)
            & (answers["trait"] == trait)
            & (answers["layer"] == best["layer"])
            & (answers["positions"] == best["positions"])
            & (answers["rollout"] == 0)
        ]
        coeffs = sorted(at["coeff"].unique())
        yield Table(
            f"examples-{model}-{trait}",
            f"{model}, {trait}: layer {best['layer']}, {best['positions']}",
            (
                Column("question", is_number=False),
                *(Column(f"coefficient {coeff:g}", is_number=False) for coeff in coeffs),
            ),
            tuple(
                (
                    _text(of["question"].iloc[0]),
                    *(_answer(of[of["coeff"] == coeff]) for coeff in coeffs),
                )
                for _, of in list(at.groupby("question_index"))[:_MOST_EXAMPLES]
            ),
        )


def _answer(rows: pd.DataFrame) -> Cell:
    row = rows.iloc[0]
    scores = [
        f"{name} {row[column]:.0f}"
        for name, column in (("trait", "trait_score"), ("coherence", "coherence"))
        if pd.notna(row[column])
    ]
    return Cell(_shortened(row["answer"]), row["answer"][:80], ", ".join(scores) or "no score")


def _text(text: str) -> Cell:
    return Cell(_shortened(text), text[:80])


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"


def _steered(summary: PersonaSummary) -> Table:
    words = ("model", "trait", "positions")
    rows = summary.steered.to_dict("records")
    return Table(
        "steered",
        "Steered answers",
        (
            *(Column(name, is_number=False) for name in words),
            Column("layer"),
            Column("coefficient"),
            Column("n", "answers"),
            Column("trait", "0 to 100"),
            Column("coherence", "0 to 100"),
        ),
        tuple(
            (
                *(Cell(str(row[name]), str(row[name])) for name in words),
                Cell(str(row["layer"]), row["layer"]),
                Cell(f"{row['coeff']:g}", row["coeff"]),
                Cell(f"{row['num_answers']:,}", row["num_answers"]),
                _estimate(row, "trait_score"),
                _estimate(row, "coherence"),
            )
            for row in rows
        ),
    ).condensed()


def _contrast(summary: PersonaSummary) -> Table:
    words = ("model", "trait", "polarity")
    return Table(
        "contrast",
        "Answers that the vectors are made of",
        (
            *(Column(name, is_number=False) for name in words),
            Column("n", "answers"),
            Column("trait", "mean"),
            Column("coherence", "mean"),
            Column("effective pairs"),
        ),
        tuple(
            (
                *(Cell(str(row[name]), str(row[name])) for name in words),
                Cell(f"{row['num_answers']:,}", row["num_answers"]),
                _number(row["trait_score"]),
                _number(row["coherence"]),
                _number(row["num_effective_pairs"], digits=0),
            )
            for row in summary.contrast.to_dict("records")
        ),
    ).condensed()


def _estimate(row: Mapping[Any, Any], name: str) -> Cell:
    if pd.isna(row[name]):
        return Cell("\N{EN DASH}", None)
    return Cell(
        f"{row[name]:.1f}", row[name], f"{row[f'{name}_low']:.1f} to {row[f'{name}_high']:.1f}"
    )


def _number(value: float | None, digits: int = 1) -> Cell:
    return Cell("\N{EN DASH}", None) if pd.isna(value) else Cell(f"{value:.{digits}f}", value)
