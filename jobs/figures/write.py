"""Figures as files beside the results."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from matplotlib.figure import Figure

from cluster.storage import Storage
from jobs.figures.style import styled

FIGURES = "figures"
_DPI = 200
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
"""Without times and versions: equal results give equal files."""


def write_figures(storage: Storage, figures: Mapping[str, Figure], ours: re.Pattern[str]) -> None:
    """Write each to ``figures/`` as PNG and PDF; those of an earlier report go, if not made again.

    Equal figures give equal bytes.

    Args:
        ours: the names that a report may give.
    """
    written = set()
    with styled():
        for name, figure in figures.items():
            for kind, metadata in _METADATA.items():
                key = f"{FIGURES}/{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.{kind}"
                sink = io.BytesIO()
                figure.savefig(sink, format=kind, dpi=_DPI, metadata=metadata)
                storage.replace(key, sink.getvalue())
                written.add(key)
    for entry in list(storage.list(f"{FIGURES}/")):
        name, _, kind = entry.key.removeprefix(f"{FIGURES}/").rpartition(".")
        if entry.key not in written and kind in _METADATA and ours.fullmatch(name):
            storage.delete(entry.key)
