"""The Python API of steersweep.

>>> import steersweep
>>> results = steersweep.load("runs/gemma2")
>>> results.cells.query("bias_type == 'gender'")

Importing this package loads neither torch nor Ray, pandas or pyarrow: what a function needs is
loaded when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs import __version__

if TYPE_CHECKING:
    from jobs.persona.results import PersonaResults
    from jobs.stereoset.results import StereoSetResults
    from steering_core.steerer import ActivationSteerer

__all__ = ["ActivationSteerer", "PersonaResults", "StereoSetResults", "__version__", "load"]

_LAZY = {
    "ActivationSteerer": "steering_core.steerer",
    "PersonaResults": "jobs.persona.results",
    "StereoSetResults": "jobs.stereoset.results",
}
"""Names that are imported when they are first used, and the modules that have them."""


def load(uri: str, endpoint_url: str | None = None) -> StereoSetResults | PersonaResults:
    """The results of a run, finished or not.

    Print them to see their tables; each table is a pandas frame that is read when it is first
    used. Nothing is written.

    Of ``job: stereoset``: ``baseline``, ``steered`` (rows: one per example and cell), ``cells``,
    ``pooled``, ``nulls``, ``geometry`` (the summary), ``vectors``, ``examples`` (texts).
    Of ``job: persona``: ``answers`` (with their scores), ``vectors``, ``projections``,
    ``examples``. Of both: ``summary`` (all tables of ``summary/`` by name), ``run``
    (``run.json``), ``uri``, ``outcome``.

    Args:
        uri: a folder, or ``s3://bucket/prefix`` (credentials come from the AWS variables).
        endpoint_url: of an S3-compatible store (MinIO, R2, ...).

    Raises:
        cluster.errors.UserActionError: there is no run of steersweep at this place, or what it
            holds is damaged; the message says what to do.
    """
    from jobs.results import open_results

    return open_results(uri, endpoint_url)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'steersweep' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
