"""What a persona sweep has come to: tables written beside its parts, and printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from cluster.storage import Storage
from jobs.console import link, print_tables, say, warn
from jobs.examples_file import read_examples, write_examples
from jobs.persona.comparison import KEYS, Comparison, compare, print_comparisons
from jobs.persona.examples import examples_of_answers
from jobs.persona.measuring import AXES
from jobs.persona.output import PersonaOutput
from jobs.persona.status import missing_of
from jobs.persona.stored import judged_answers
from jobs.persona.summary import PersonaSummary, pooled, summarise
from jobs.scoring.non_finite import described
from jobs.side_effects.report import (
    Tables,
    on_page,
    picked_as_json,
    report_side_effects,
    side_effect_figures,
    side_effect_tables,
)
from jobs.sweeps.certificate_file import write_certificate
from jobs.sweeps.report import ReportOptions, parse_by, write_table
from jobs.words import coefficient

_GROUP = ("model", "trait")
_FOOTNOTE = """\
trait: mean score of the answers for the trait, 0 (none of it) to 100.
coherence: mean score for being readable; below 50 the text has broken down.
Both are scores of the judge; the interval is over questions."""


def report(output: PersonaOutput, options: ReportOptions) -> dict[str, Any]:
    """Write ``summary/``, ``figures/``, ``certificate.json`` and ``report.html``; print the scores.

    Returns:
        The printed result as plain data, unrounded: the rows of ``summary/steered``, or those of
        ``pooled`` if ``by`` is given.

    Raises:
        UserError: damaged parts, nothing to compare with, or ``by`` names no column.
    """
    by = None if options.by is None else parse_by(options.by, KEYS)
    storage, parts = output.storage, output.index
    for group, pairs in parts.pairs.items():
        say(pairs.line(str(group)))
    summary = summarise(storage, parts)
    side_effects = side_effects_of(output, options.pick)
    missing = missing_of(output)
    if missing:
        warn(f"the sweep is not complete yet ({missing} missing); the report covers the rest")
    for name, frame in summary.tables().items():
        table = pa.Table.from_pandas(frame, preserve_index=False)
        write_table(storage, name, table, only_with_rows=True)
    if read_examples(storage) is None:  # of an output that an earlier version made
        write_examples(storage, examples_of_answers(judged_answers(storage, parts)))
    comparisons = [compare(output, summary, other) for other in options.others]
    _write_comparisons(storage, comparisons)
    shown = summary.steered
    if by is not None:
        shown = pooled(summary.answers, parts, [name for name in KEYS if name in by])
        print_pooled(shown)
    elif len(shown):
        print_result(shown)
    print_comparisons(comparisons)
    report_side_effects(storage, side_effects, has_pick=options.pick is not None)
    for line in described(output.inventory):
        warn(line)
    of_sets = output.inventory.footers()
    certificate = write_certificate(storage, output.footers(), output.certified, of_sets)
    say(f"tables:  {storage.uri_of('summary')}")
    page = {
        "certificate": certificate["overall"],
        "comparisons": comparisons,
        "missing": missing,
        "side_effects": on_page(side_effects),
    }
    _draw(output, summary, side_effects, page, figures=options.figures)
    result = json.loads(shown.to_json(orient="records", double_precision=15))
    return {
        "certificate": certificate["overall"],
        "result": result,
        **picked_as_json(side_effects),
    }


def side_effects_of(output: PersonaOutput, pick: str | None = None) -> Tables:
    """The tables about side effects; raises as ``side_effect_tables``."""
    return side_effect_tables(output.side_effects, AXES, pick)


def _write_comparisons(storage: Storage, comparisons: Sequence[Comparison]) -> None:
    for name, frames in (
        ("compared", [of.rows for of in comparisons]),
        ("differences", [of.differences for of in comparisons]),
    ):
        frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        table = pa.Table.from_pandas(frame, preserve_index=False)
        write_table(storage, name, table, only_with_rows=True)


def _draw(
    output: PersonaOutput,
    summary: PersonaSummary,
    side_effects: Tables,
    page: Mapping[str, Any],
    *,
    figures: bool,
) -> None:
    # matplotlib takes a second to load, and only this needs it.
    from jobs.figures.write import FIGURES, write_figures
    from jobs.page.page import PAGE_KEY
    from jobs.persona.figures import NAMES, planned_figures
    from jobs.persona.page.write import write_page

    storage = output.storage
    if figures:
        drawn = {**planned_figures(summary), **side_effect_figures(side_effects)}
        write_figures(storage, drawn, NAMES)
        say(f"figures: {storage.uri_of(FIGURES)} ({len(drawn)} as PNG and PDF)")
    write_page(storage, summary, output.record or {}, **page)
    say(f"page:    {link(storage.uri_of(PAGE_KEY))}")


def print_pooled(rows: pd.DataFrame) -> None:
    """Print one row per combination of the columns that ``--by`` names."""
    if rows.empty:
        say("No result yet: no steered answer is judged.")
        return
    by = [name for name in KEYS if name in rows]
    shown = [
        [
            *(coefficient(row[name]) if name == "coeff" else str(row[name]) for name in by),
            _estimate(row, "trait_score"),
            _estimate(row, "coherence"),
            f"{row['num_answers']:,}",
        ]
        for row in rows.to_dict("records")
    ]
    say("\nScores of steered answers, pooled over all that has no column here\n")
    columns = (*by, "trait (95 % interval)", "coherence (95 % interval)", "answers")
    print_tables(columns, [("", shown)])
    say(f"\n{_FOOTNOTE}\n")


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
