"""A figure that is still to be drawn, and the files that it becomes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from jobs.figures.style import styled

Drawing = Callable[[], Figure]
"""Draws a figure. It can be pickled, so that another process may call it."""

_DPI = 200
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
"""Without times and versions: equal results give equal files."""
KINDS = tuple(_METADATA)


def files_of(drawing: Drawing) -> Mapping[str, bytes]:
    """The figure as a file of each kind, ``png`` and ``pdf``; equal figures give equal bytes."""
    with styled():
        figure = drawing()
        files = {}
        for kind, metadata in _METADATA.items():
            sink = io.BytesIO()
            figure.savefig(sink, format=kind, dpi=_DPI, metadata=metadata)
            files[kind] = sink.getvalue()
        return files
