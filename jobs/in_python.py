"""Commands as functions for a notebook: what ``import steersweep`` offers beside ``load``."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cluster.storage import Storage, StorageSpec
from jobs.advice import advised
from jobs.console import warn
from jobs.results import Results
from jobs.spec import JobSpec
from jobs.sweeps import commands
from jobs.sweeps.estimate import PlanOptions
from jobs.sweeps.registry import load_any_spec, open_results, results_of
from steersweep.errors import UserError

_TASKS_FAILED = 1


@advised()
def run(
    spec: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    output: str | None = None,
    *,
    figures: bool = True,
) -> Results:
    """See ``steersweep.run``."""
    sweep = _spec(spec, overrides, output)
    with _signals_put_back():
        code = commands.run(sweep, new=False, figures=figures)
    if code > _TASKS_FAILED:
        raise KeyboardInterrupt
    results = open_results(sweep.output, sweep.storage.endpoint_url)
    if code:
        warn(
            f"not all tasks are done ({results.outcome}); the results hold those that are finished"
        )
    return results


@advised()
def plan(
    spec: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    output: str | None = None,
    *,
    device: str | None = None,
    replicas: int | None = None,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """See ``steersweep.plan``."""
    options = PlanOptions(device=device, replicas=replicas, seconds=seconds)
    return commands.plan(_spec(spec, overrides, output), options)


@advised()
def status(uri: str, endpoint_url: str | None = None) -> dict[str, Any]:
    """See ``steersweep.status``."""
    return commands.status(_reached(uri, endpoint_url))


@advised()
def report(uri: str, endpoint_url: str | None = None, *, figures: bool = True) -> Results:
    """See ``steersweep.report``."""
    storage = _reached(uri, endpoint_url)
    commands.report(storage, figures=figures)
    return results_of(storage)


@advised()
def verify(uri: str, rows: int = 20, seed: int = 0, endpoint_url: str | None = None) -> bool:
    """See ``steersweep.verify``."""
    if rows < 1:
        raise UserError(f"rows must be at least 1, got {rows}")
    return commands.verify(_reached(uri, endpoint_url), rows, seed) == 0


def _spec(
    spec: str | os.PathLike[str], overrides: Mapping[str, Any] | None, output: str | None
) -> JobSpec:
    texts = [f"{key}={_yaml(key, value)}" for key, value in (overrides or {}).items()]
    return load_any_spec(os.fspath(spec), texts, output)


def _reached(uri: str, endpoint_url: str | None) -> Storage:
    storage = StorageSpec(uri, endpoint_url).open()
    storage.check_reachable()
    return storage


def _yaml(key: str, value: Any) -> str:
    """The value as the command line would have it; JSON is YAML."""
    try:
        return json.dumps(value, default=_plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{key}: must be a value of a sweep file, got {repr(value)[:60]}"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # of numpy
        return value.tolist()
    raise TypeError(type(value).__name__)


@contextmanager
def _signals_put_back() -> Iterator[None]:
    """Put the handlers of signals back, however a run ends.

    A command that was interrupted is about to end, so it leaves a handler behind that ends the
    process at the next signal. A notebook goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UserError("steersweep.run can be called from the main thread only")
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
