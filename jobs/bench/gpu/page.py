"""gpu.md: what a run found, as tables that can be pasted into docs/performance.md."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.bench.gpu.record import GpuRecord, SectionRecord
from jobs.words import duration

_TITLES = {
    "environment": "Environment",
    "right": "Right: the engine against references",
    "fast": "Fast: scoring under steering",
    "profile": "Where the time goes",
    "text": "Text: steered generation",
}


@dataclass(frozen=True)
class Table:
    """A table with a title, and a sentence on how to read it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def lines(self) -> list[str]:
        """The table as Markdown: the first column is text, the others numbers."""
        marks = ["---", *["---:"] * (len(self.header) - 1)]
        lines = [f"**{self.title}**", ""]
        if self.note:
            lines += [self.note, ""]
        for cells in (self.header, marks, *self.rows):
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
        return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits, thousands separated; empty for None."""
    if value is None:
        return ""
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """A share as ``41.3 %``; empty for None."""
    return "" if value is None else f"{100 * value:.1f} %"


def gib(num_bytes: float | None) -> str:
    """Bytes as ``9.3 GiB`` or ``412 MiB``; empty for None."""
    if num_bytes is None:
        return ""
    if num_bytes < 2**30:
        return f"{num_bytes / 2**20:,.0f} MiB"
    return f"{num_bytes / 2**30:,.1f} GiB"


def page_of(record: GpuRecord) -> str:
    """The whole page; sections that have not run yet are named as such."""
    lines = ["# steersweep bench gpu", "", *_head(record)]
    for section in record.sections:
        lines += [f"## {_TITLES.get(section.name, section.name)}", "", *_section(section)]
    return "\n".join(lines).rstrip() + "\n"


def _head(record: GpuRecord) -> list[str]:
    lines = [
        f"{_machine(record)}. {record.date}; {record.data}; "
        f"{duration(record.took_s)} of at most {duration(record.seconds)}.",
        "",
        f"    {record.command}",
        "",
    ]
    if record.shape == "tiny":
        lines += ["Tiny shapes: the command was tried, and no number says anything of a sweep.", ""]
    if record.failed:
        lines += [f"**{len(record.failed)} of {len(record.steps)} steps failed:**", ""]
        for name, step in record.steps:
            if step.status == "failed":
                what = step.problem.line if step.problem else step.line
                lines.append(f"- {name}: {step.name}: {' '.join(what.split())}")
        lines.append("")
    elif all(section.status in ("done", "left out") for section in record.sections):
        num = sum(step.status == "ok" for _, step in record.steps)
        lines += [f"All {num} steps that ran succeeded.", ""]
    if record.left_out:
        lines += ["Left out:", "", *(f"- {name}" for name in record.left_out), ""]
    return lines


def _machine(record: GpuRecord) -> str:
    section = record.section("environment")
    step = section.step("machine") if section else None
    if step is None or not step.found:
        return f"On {record.device}"
    found = step.found
    parts = [
        found.get("device") or f"{found['processor']}, CPU threads: {found['threads']}",
        f"torch {found['torch']}",
        f"transformers {found['transformers']}",
        *([f"driver {found['driver_version']}"] if "driver_version" in found else []),
    ]
    return ", ".join(parts)


def _section(section: SectionRecord) -> list[str]:
    if section.status in ("waiting", "running"):
        return ["Has not ended yet.", ""]
    if section.status == "left out":
        return [f"Left out: {section.reason}.", ""]
    lines = [f"Ended early: {section.reason}.", ""] if section.reason else []
    try:
        tables = importlib.import_module(f"jobs.bench.gpu.{section.name}").tables(section)
    except Exception as error:  # a page that cannot be written must not end the run
        return [*lines, f"No tables ({type(error).__name__}: {error}); see gpu.json.", ""]
    return [*lines, *(line for table in tables for line in table.lines())]
