"""The Python API of steersweep.

Examples:
    >>> import steersweep
    >>> results = steersweep.load("runs/gemma2")
    >>> results.cells.query("bias_type == 'gender'")

Importing this package loads neither torch nor Ray, pandas or pyarrow, nor the project's other
packages: what a function needs is loaded when it is called. So `steersweep.errors` can be imported
from anywhere.
"""

from __future__ import annotations

from os import fspath
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    import pandas

    from jobs import __version__
    from jobs.persona.results import PersonaResults
    from jobs.results import Results
    from jobs.stereoset.results import StereoSetResults
    from steering_core.steerer import ActivationSteerer
    from steersweep.errors import UserError

__all__ = [
    "ActivationSteerer",
    "PersonaResults",
    "Results",
    "StereoSetResults",
    "UserError",
    "__version__",
    "load",
    "plan",
    "report",
    "run",
    "status",
    "summarise",
    "summarize",
    "verify",
]

_LAZY = {
    "ActivationSteerer": "steering_core.steerer",
    "PersonaResults": "jobs.persona.results",
    "Results": "jobs.results",
    "StereoSetResults": "jobs.stereoset.results",
    "UserError": "steersweep.errors",
    "__version__": "jobs",
}
"""Names that are imported when they are first used, and the modules that have them."""


def load(uri: str | PathLike[str], endpoint_url: str | None = None) -> Results:
    """The results of a run, finished or not.

    Print them to see their tables; each table is a pandas frame that is read when it is first
    used. Nothing is written. Each job has its own class of results, such as ``StereoSetResults``;
    ``isinstance`` tells them apart, also for a type checker.

    Of ``job: stereoset``: ``baseline``, ``steered`` (rows: one per example and cell), ``cells``,
    ``pooled``, ``nulls``, ``geometry`` (the summary), ``vectors``, ``examples`` (texts).
    Of ``job: persona``: ``answers`` (with their scores), ``vectors``, ``projections``,
    ``examples``. Of both: ``summary`` (all tables of ``summary/`` by name), ``run``
    (``run.json``), ``uri``, ``outcome``.

    Args:
        uri: a folder, or ``s3://bucket/prefix`` (credentials come from the AWS variables).
        endpoint_url: the endpoint of an S3-compatible store (MinIO, R2, ...).

    Raises:
        UserError: there is no run of steersweep at this place, or what it holds is damaged; the
            message says what to do.
    """
    from jobs.sweeps.registry import open_results

    return open_results(fspath(uri), endpoint_url)


def run(
    spec: str | PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    output: str | None = None,
    *,
    figures: bool = True,
) -> Results:
    """The results of a sweep that is run now, or resumed, as ``steersweep run`` does it.

    Examples:
        >>> overrides = {"data.limit": 20, "compute.executor": "in_process"}
        >>> results = steersweep.run("sweep.yaml", overrides)

    Progress is printed. If tasks failed, there is a warning, ``outcome`` of the results says so,
    and they hold what is finished.

    Args:
        spec: a YAML file, or the name of an example such as ``demo-tiny``.
        overrides: values by key, as for ``--set``.
        output: replaces the ``output`` of the file.
        figures: whether the report at the end draws them.

    Raises:
        UserError: you must change something first; the message says what.
        KeyboardInterrupt: it was interrupted; what is finished is kept.
    """
    from jobs import in_python

    return in_python.run(spec, overrides, output, figures=figures)


def plan(
    spec: str | PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    output: str | None = None,
    *,
    device: str | None = None,
    replicas: int | None = None,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """The plan of a sweep as plain data, as ``steersweep plan --json`` prints it; runs nothing.

    The plan is printed as well: rows, time and memory, or for ``job: persona`` answers, tokens,
    queries of the judge, memory, and the longest time that it can take.

    Args:
        spec: as for ``run``.
        overrides: as for ``run``.
        output: plans for this output instead of the file's.
        device: an accelerator to estimate the time for, such as ``h100``; None: this machine.
            Not for ``job: persona``, whose times are only measured.
        replicas: number of replicas; None: what the file says.
        seconds: time for measuring each model on this machine; 0 measures nothing.

    Raises:
        UserError: you must change something first; the message says what.
    """
    from jobs import in_python

    return in_python.plan(
        spec, overrides, output, device=device, replicas=replicas, seconds=seconds
    )


def status(uri: str | PathLike[str], endpoint_url: str | None = None) -> dict[str, Any]:
    """The progress of a run as plain data, as ``steersweep status --json`` prints it.

    It is printed as well. docs/json.md lists the keys.

    Args:
        uri: the output, as for ``load``.
        endpoint_url: as for ``load``.

    Raises:
        UserError: there is no run at this place, or parts are damaged.
    """
    from jobs import in_python

    return in_python.status(fspath(uri), endpoint_url)


def report(
    uri: str | PathLike[str], endpoint_url: str | None = None, *, figures: bool = True
) -> Results:
    """The results of a run after its tables, figures and report.html are made again.

    To compare runs of either job, use ``steersweep report URI --compare URI``.

    Args:
        uri: the output, as for ``load``.
        endpoint_url: as for ``load``.
        figures: whether to draw them, which takes most of the time.

    Raises:
        UserError: there is no run at this place, or parts are damaged.
    """
    from jobs import in_python

    return in_python.report(fspath(uri), endpoint_url, figures=figures)


def verify(
    uri: str | PathLike[str], rows: int = 20, seed: int = 0, endpoint_url: str | None = None
) -> bool:
    """Whether a random sample of stored rows equals plain Hugging Face, within the tolerance.

    The comparison is printed; nothing is written. Model and data must be where the run had them.

    Args:
        uri: the output, as for ``load``.
        endpoint_url: as for ``load``.
        rows: number of rows or answers to recompute of each model.
        seed: random seed for choosing them.

    Raises:
        UserError: nothing is finished, or model or data are not where they were or have changed
            since.
    """
    from jobs import in_python

    return in_python.verify(fspath(uri), rows, seed, endpoint_url)


def summarize(
    baseline: pandas.DataFrame,
    steered: pandas.DataFrame,
    vectors: Literal["in_sample", "held_out", "file"],
) -> dict[str, pandas.DataFrame]:
    """The tables ``cells``, ``pooled`` and ``headline`` of some rows of ``job: stereoset``.

    They have the columns of those in ``summary/``. Use this to filter the rows of a run and see
    how the estimates change.

    Examples:
        >>> results = steersweep.load("runs/gemma2")
        >>> rows = results.steered.query("bias_type != 'religion'")
        >>> tables = steersweep.summarize(results.baseline, rows, vectors="in_sample")

    Args:
        baseline: rows with the columns of ``results.baseline``. Examples that no cell has are
            left out.
        steered: rows with the columns of ``results.steered``. Each cell must have the same
            examples. ``num_tokens_*``, ``read``, ``apply`` and ``task_id`` are not needed, here
            and in ``baseline``.
        vectors: whether the vectors were fitted to the same rows, to others, or taken from a file.

    Raises:
        UserError: a column or a row is missing, or an example is there twice.
    """
    from jobs.stereoset.summarize import summarize_frames

    return summarize_frames(baseline, steered, vectors)


summarise = summarize


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'steersweep' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
