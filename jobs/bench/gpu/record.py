"""What a run has found so far: sections, steps, and the file that is replaced after each."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

VERSION = 1
Status = Literal["running", "ok", "failed", "left out"]


@dataclass(frozen=True)
class Problem:
    """Why a step failed: the error's type and message, and the end of its traceback."""

    type: str
    message: str
    traceback: str = ""

    @property
    def line(self) -> str:
        """Type and message."""
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass
class StepRecord:
    """One measurement.

    Attributes:
        line: what was found, in a few words; of a step that was left out, why.
        found: what was found, as plain data.
    """

    name: str
    status: Status = "running"
    took_s: float | None = None
    line: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


@dataclass
class SectionRecord:
    """One section; ``reason``: why it did not run, or did not run to its end."""

    name: str
    status: Literal["waiting", "running", "done", "ended", "left out"] = "waiting"
    reason: str = ""
    limit_s: float | None = None
    took_s: float | None = None
    steps: list[StepRecord] = field(default_factory=list)

    def step(self, name: str) -> StepRecord | None:
        """The step of that name; None if there is none."""
        return next((step for step in self.steps if step.name == name), None)

    def succeeded(self) -> list[StepRecord]:
        """Steps that found something, those whose checks do not hold too."""
        return [step for step in self.steps if step.found]


@dataclass
class GpuRecord:
    """Everything that a run has found, and what it was asked.

    Attributes:
        command: with which the run can be repeated.
        date: when it began, UTC.
    """

    command: str
    date: str
    device: str
    shape: str
    data: str
    seconds: float
    took_s: float = 0.0
    sections: list[SectionRecord] = field(default_factory=list)

    @property
    def steps(self) -> list[tuple[str, StepRecord]]:
        """Every step with the name of its section."""
        return [(section.name, step) for section in self.sections for step in section.steps]

    @property
    def failed(self) -> list[str]:
        """``section: step`` of every step that failed."""
        return [f"{name}: {step.name}" for name, step in self.steps if step.status == "failed"]

    @property
    def left_out(self) -> list[str]:
        """Sections, and steps of the other sections, that did not run, and why."""
        sections = [f"{s.name} ({s.reason})" for s in self.sections if s.status == "left out"]
        steps = [
            f"{name}: {step.name} ({step.line})"
            for name, step in self.steps
            if step.status == "left out"
        ]
        return [*sections, *steps]

    def section(self, name: str) -> SectionRecord | None:
        """The section of that name; None if it was not asked for."""
        return next((section for section in self.sections if section.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """Plain data; a number that is not finite is null."""
        details = {"failed": self.failed, "left_out": self.left_out}
        whole: dict[str, Any] = finite({"bench_gpu_version": VERSION, **details, **asdict(self)})
        return whole


def finite(value: Any) -> Any:
    """Plain data for JSON: numbers that are not finite become None, keys become text."""
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(entry) for entry in value]
    if hasattr(value, "item"):  # a number of numpy or torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(file: Path, text: str) -> None:
    """Replace a file in one step, so that a reader finds the old text or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step."""
    write_whole(file, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
