"""The result of a choices sweep on a terminal: metrics before steering, changes, the finding."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

import pyarrow as pa

from jobs.choices.finding import finding
from jobs.choices.words import CHANGED, VECTORS, Row, has_estimate, shown_metrics, widest
from jobs.console import print_tables, say
from jobs.page.shown import Shown
from jobs.page.words import MINUS, PERCENT
from jobs.words import coefficient, count

_WIDTH = 80
_MOST_ROWS = 60
_NOTE = """\
Changes are against the same examples without steering. Each interval is for
one number alone; the finding below allows for having several to choose from.\n"""


def print_result(tables: Mapping[str, pa.Table]) -> None:
    """Print a summary: unsteered metrics, changes over all fits and layers, the finding."""
    metrics = shown_metrics(tables)
    _print_groups("Without steering", ("metric", "value (95 % interval)"), _before(tables, metrics))
    rows = widest(tables)
    if not rows:
        say("No result yet: no coefficient is complete at all layers.\n")
        return
    changes: dict[str, list[list[str]]] = {}
    for row in rows:
        changes.setdefault(_heading(row), []).extend(_changes(row, metrics))
    columns = ("coeff", "vectors", "metric", "change (95 % interval)", "after")
    _print_groups("Change caused by steering", columns, changes)
    for shown in metrics.values():
        _fill(f"{shown.key}: {', '.join(filter(None, (shown.label, shown.unit)))}")
    say(f"\n{_NOTE}")
    for model, text in finding(tables):
        _fill(f"{model}. {text}".replace(MINUS, "-").replace(PERCENT, " %"))
        say()


def _before(
    tables: Mapping[str, pa.Table], metrics: Mapping[str, Shown]
) -> dict[str, list[list[str]]]:
    whole = [row for row in tables["baseline"].to_pylist() if not row["group_key"]]
    has_several = {row["model"] for row in whole if row["fit"] is None}
    return {
        f"{row['model']} ({count(row['num_examples'], 'example')})": [
            [key, _estimate(shown, row, key)] for key, shown in metrics.items()
        ]
        for row in whole
        if row["fit"] is None or row["model"] not in has_several
    }


def _heading(row: Row) -> str:
    layers = "mean over layers" if row["layer"] is None else f"layer {row['layer']}"
    fits = "all fits, " if row["fit"] is None else ""
    return f"{row['model']}, {fits}{layers} ({count(row['num_examples'], 'example')})"


def _changes(row: Row, metrics: Mapping[str, Shown]) -> Iterator[list[str]]:
    first = [coefficient(row["coeff"]), VECTORS[row["vectors"]]]
    for key, shown in metrics.items():
        after = "-" if row[key] is None else _ascii(shown.text(row[key]))
        yield [*first, key, _estimate(shown, row, f"{key}_change"), after]
        first = ["", ""]
    yield [*first, CHANGED.key, _estimate(CHANGED, row, "changed"), "-"]


def _estimate(shown: Shown, row: Row, name: str) -> str:
    if row[name] is None:
        return "-"
    value = _ascii(shown.text(row[name]))
    if not has_estimate(row, name):
        return value
    low, high = (_ascii(shown.text(row[f"{name}{end}"])) for end in ("_low", "_high"))
    return f"{value} ({low}, {high})"


def _ascii(text: str) -> str:
    return text.replace(MINUS, "-")


def _print_groups(
    title: str, columns: tuple[str, ...], groups: Mapping[str, list[list[str]]]
) -> None:
    say(f"\n{title}")
    shown = [(f"\n{heading}", rows[:_MOST_ROWS]) for heading, rows in groups.items()]
    if shown:
        print_tables(columns, shown)
    if any(len(rows) > _MOST_ROWS for rows in groups.values()):
        say(f"The first {_MOST_ROWS} rows; summary/pooled.csv has all.")
    say()


def _fill(text: str) -> None:
    say(textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))
