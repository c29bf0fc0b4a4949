"""What a persona sweep has come to: tables written beside its parts, and printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from jobs.console import link, print_tables, say, warn
from jobs.examples_file import read_examples, write_examples
from jobs.persona.examples import examples_of_answers
from jobs.persona.output import PersonaOutput
from jobs.persona.status import not_there
from jobs.persona.stored import judged_answers
from jobs.persona.summary import PersonaSummary, summarise
from jobs.sweeps.certificate_file import write_certificate
from jobs.sweeps.report import ReportOptions, write_table
from jobs.words import coefficient

_GROUP = ("model", "trait")
_FOOTNOTE = """\
trait: mean score of the answers for the trait, 0 (none of it) to 100.
coherence: mean score for being readable; below 50 the text has broken down.
Both are scores of the judge; the interval is over questions."""


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
    certificate = write_certificate(storage, output.footers(), output.certified)
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
