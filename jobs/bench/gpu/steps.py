"""Steps of a section: each is tried alone, and what came of it is told at once."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import torch

from jobs.bench.gpu.options import GpuOptions, Sizes, sizes_of
from jobs.bench.gpu.record import Problem, finite
from steering_core.device_check import check_devices
from steering_core.models import resolve_device

_LONGEST_MESSAGE, _LONGEST_TRACEBACK = 600, 1500
_LEAST_S = 1.0
"""No step begins with less time left."""


class LeftOutError(Exception):
    """Raised by a step that cannot run here; the message says why. It is no failure."""


@dataclass(frozen=True)
class Check:
    """Something that must hold.

    Attributes:
        found, limit: a number and the most it may be, or two texts that must be equal.
    """

    what: str
    found: float | str
    limit: float | str
    holds: bool

    @classmethod
    def at_most(cls, what: str, found: float, limit: float) -> Check:
        """Holds if the number is not above the limit; NaN never holds."""
        return cls(what, found, limit, bool(found <= limit))

    @classmethod
    def same(cls, what: str, found: object, wanted: object) -> Check:
        """Holds if both read the same."""
        return cls(what, _text(found), _text(wanted), found == wanted)


def _text(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Found:
    """What a step found.

    Attributes:
        line: in a few words, for the terminal.
        values: plain data.
        checks: the step fails if one of them does not hold.
    """

    line: str
    values: dict[str, Any] = field(default_factory=dict)
    checks: Sequence[Check] = ()


@dataclass(frozen=True)
class Step:
    """One measurement; ``work`` raises ``LeftOutError`` where it makes no sense."""

    name: str
    work: Callable[[], Found]


@dataclass(frozen=True)
class Setting:
    """What a section is given.

    Attributes:
        deadline: of ``time.monotonic``; when the section should be done.
    """

    options: GpuOptions
    device: torch.device
    sizes: Sizes
    deadline: float

    @classmethod
    def of(cls, options: GpuOptions, deadline: float) -> Setting:
        """The setting of a run's options; holds the device."""
        device = resolve_device(options.device_type())
        return cls(options, device, sizes_of(options.shape), deadline)

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.deadline - time.monotonic()

    def need(self, seconds: float) -> None:
        """Raise ``LeftOutError`` if less time is left."""
        if seconds > self.left_s:
            raise LeftOutError(f"takes about {seconds:.0f} s, {max(0, self.left_s):.0f} s are left")


def run_steps(steps: Sequence[Step], setting: Setting, events: TextIO) -> None:
    """Run each step, and write what happens as JSON, one event a line.

    Events: ``{"steps": [names]}`` first; ``{"begin": name}``; ``{"end": name, ...}`` with status,
    took_s, line, found and problem; ``{"lost": reason}`` if the device cannot be used any more.
    """

    def tell(**event: Any) -> None:
        events.write(json.dumps(finite(event), allow_nan=False) + "\n")
        events.flush()

    tell(steps=[step.name for step in steps])
    for step in steps:
        if setting.left_s < _LEAST_S:
            tell(end=step.name, status="left out", line="no time left")
            continue
        tell(begin=step.name)
        started = time.monotonic()
        outcome = _tried(step)
        tell(end=step.name, took_s=time.monotonic() - started, **outcome)
        if outcome["status"] == "failed" and (reason := _lost(setting.device)):
            tell(lost=reason)
            return


def _tried(step: Step) -> dict[str, Any]:
    """What became of a step: status, line, found, problem."""
    problem: Problem | None = None
    try:
        found = step.work()
    except LeftOutError as error:
        return {"status": "left out", "line": str(error)}
    except Exception as error:  # whatever it is, the next step must run
        problem = problem_of(error)
    if problem is not None:
        # Behind the handler: the error held on to the tensors of what failed.
        gc.collect()
        return {"status": "failed", "line": problem.line, "problem": asdict(problem)}
    broken = [check for check in found.checks if not check.holds]
    values = dict(found.values)
    if found.checks:
        values["checks"] = [asdict(check) for check in found.checks]
    if not broken:
        return {"status": "ok", "line": found.line, "found": values}
    words = "; ".join(f"{c.what}: found {_short(c.found)}, not {_short(c.limit)}" for c in broken)
    problem = Problem("does not hold", words)
    line = f"{len(broken)} of {len(found.checks)} checks do not hold: {words}"
    return {"status": "failed", "line": line, "found": values, "problem": asdict(problem)}


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def problem_of(error: BaseException) -> Problem:
    """An error as it is written down: the first lines of its message, the end of its traceback."""
    message = " ".join(str(error).split())[:_LONGEST_MESSAGE]
    trace = "".join(traceback.format_exception(error))[-_LONGEST_TRACEBACK:]
    return Problem(type(error).__name__, message, trace)


def _lost(device: torch.device) -> str:
    """Why the device cannot be used any more; empty if it can."""
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        check_devices([device])
    except Exception as error:  # a broken device may raise anything
        return f"the device does not work after that error: {problem_of(error).line}"
    return ""
