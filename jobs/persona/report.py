"""What a persona sweep has come to: tables written beside its parts, and printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from jobs.console import Verbosity, link, print_table, print_tables, say, warn
from jobs.examples_file import read_examples, write_examples
from jobs.persona.examples import examples_of_answers
from jobs.persona.index import Parts
from jobs.persona.output import PersonaOutput
from jobs.persona.stored import judged_answers
from jobs.persona.summary import PersonaSummary, summarise
from jobs.sweeps.certificate_file import Checked, write_certificate
from jobs.sweeps.report import ReportOptions, write_table
from jobs.sweeps.session import DriverState
from jobs.words import coefficient

_GROUP = ("model", "trait")
_STAGES = {"written": "answers", "judged": "scores", "projected": "projections"}
"""By what `status` calls them: the attribute of ``Parts`` that lists what a stage has done."""
_FOOTNOTE = """\
trait: mean score of the answers for the trait, 0 (none of it) to 100.
coherence: mean score for being readable; below 50 the text has broken down.
Both are scores of the judge; the interval is over questions."""


_CHECKED = Checked(item="answer", unit=" in probability", choice="changed token")


def report(output: PersonaOutput, options: ReportOptions) -> dict[str, Any]:
    """Write ``summary/``, ``figures/``, ``certificate.json`` and ``report.html``; print the scores.

    Returns:
        The printed result as plain data, unrounded: the rows of ``summary/steered``.

    Raises:
        UserError: damaged parts.
    """
    storage, parts = output.storage, output.index
    for group, pairs in parts.pairs.items():
        say(pairs.line(str(group)))
    summary = summarise(storage, parts)
    missing = not_there(parts)
    if missing:
        warn(f"the sweep is not complete yet ({missing} missing); the report covers the rest")
    for name, frame in summary.tables().items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        write_table(storage, name, table, only_with_rows=True)
    if read_examples(storage) is None:  # of an output that an earlier version made
        write_examples(storage, examples_of_answers(judged_answers(storage, parts)))
    if len(summary.steered):
        print_result(summary.steered)
    certificate = write_certificate(storage, output.footers(), _CHECKED)
    say(f"tables:  {storage.uri_of('summary')}")
    _draw(output, summary, missing, figures=options.figures)
    result = json.loads(summary.steered.to_json(orient="records", double_precision=15))
    return {"certificate": certificate["overall"], "result": result}


def _draw(output: PersonaOutput, summary: PersonaSummary, missing: str, *, figures: bool) -> None:
    # matplotlib takes a second to load, and only this needs it.
    from jobs.figures.write import FIGURES, write_figures
    from jobs.page.page import PAGE_KEY
    from jobs.persona.figures import NAMES, planned_figures
    from jobs.persona.page.write import write_page

    storage = output.storage
    if figures:
        drawn = planned_figures(summary)
        write_figures(storage, drawn, NAMES)
        say(f"figures: {storage.uri_of(FIGURES)} ({len(drawn)} as PNG and PDF)")
    write_page(storage, summary, output.record or {}, missing)
    say(f"page:    {link(storage.uri_of(PAGE_KEY))}")


def status(output: PersonaOutput, driver: DriverState) -> dict[str, Any]:
    """Print how far each stage has come, and return it as plain data.

    Raises:
        UserError: a damaged index.
    """
    storage, parts = output.storage, output.index
    missing = not_there(parts)
    say(f"{storage.uri}: {driver.told}", at=Verbosity.QUIET)
    say(f"missing: {missing}" if missing else "all stages are done", at=Verbosity.QUIET)
    stages = [
        {
            "model": group.model,
            "trait": group.trait,
            "phase": phase,
            "num_answers": num,
            **{name: key in getattr(parts, of) for name, of in _STAGES.items()},
        }
        for key, num in parts.num_rows.items()
        for group, phase in [key]
    ]
    if stages:
        say()
        rows = [
            [
                *(str(stage[name]) for name in ("model", "trait", "phase")),
                f"{stage['num_answers']:,}",
                *("done" if stage[name] else "-" for name in _STAGES),
            ]
            for stage in stages
        ]
        print_table("", ["model", "trait", "phase", "answers", *_STAGES], rows)
    for group, pairs in parts.pairs.items():
        say(pairs.line(str(group)))
    return {"missing": missing or None, "stages": stages}


def not_there(parts: Parts) -> str:
    """The first stage that has not ended, in words; empty where all have."""
    if not parts.answers:
        return "answers"
    if not parts.vectors:
        return "judgements of contrast answers" if not parts.pairs else "vectors"
    phases = {phase for _, phase in parts.scores}
    if "steered" not in phases:
        return "steered answers or their judgements"
    return "" if parts.projections else "projections"


def print_result(steered: pd.DataFrame) -> None:
    """Print one row per model, trait, layer, positions and coefficient."""
    axes = [axis for axis in ("layer", "positions") if steered[axis].nunique() > 1]
    groups: dict[str, list[list[str]]] = {}
    for row in steered.sort_values([*_GROUP, "positions", "layer", "coeff"]).to_dict("records"):
        fixed = [f"layer {row['layer']:.0f}"] if "layer" not in axes else []
        heading = ", ".join([*(str(row[key]) for key in _GROUP), *fixed])
        shown = [f"{row[axis]:.0f}" if axis == "layer" else str(row[axis]) for axis in axes]
        shown += [
            coefficient(row["coeff"]),
            _estimate(row, "trait_score"),
            "-" if pd.isna(row["coherence"]) else f"{row['coherence']:.1f}",
            f"{row['num_answers']:,}",
        ]
        groups.setdefault(heading, []).append(shown)
    say("\nScores of steered answers")
    columns = (*axes, "coeff", "trait (95 % interval)", "coherence", "answers")
    print_tables(columns, [(f"\n{heading}", rows) for heading, rows in groups.items()])
    say(f"\n{_FOOTNOTE}\n")


def _estimate(row: Mapping[Any, Any], name: str) -> str:
    if pd.isna(row[name]):
        return "-"
    return f"{row[name]:.1f} ({row[f'{name}_low']:.1f}, {row[f'{name}_high']:.1f})"
