"""Figures as files beside the results."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cluster.storage import Storage
from jobs.figures.drawing import KINDS, Drawing
from jobs.figures.pool import drawn, num_processes

FIGURES = "figures"


def write_figures(
    storage: Storage,
    drawings: Mapping[str, Drawing],
    ours: re.Pattern[str],
    processes: int | None = None,
) -> None:
    """Draw each figure and write it to ``figures/`` as PNG and PDF.

    Figures that an earlier report wrote are deleted if they are not made again. Equal figures give
    equal bytes, however many processes draw them.

    Args:
        ours: the names that a report may give.
        processes: how many draw; None: as many as there are cores, if there are enough figures.
    """
    written = set()
    processes = num_processes(len(drawings)) if processes is None else processes
    with drawn(drawings, processes) as finished:
        for name, files in finished:
            for kind, content in files.items():
                key = f"{FIGURES}/{re.sub(r'[^A-Za-z0-9._=-]', '_', name)}.{kind}"
                storage.replace(key, content)
                written.add(key)
    for entry in list(storage.list(f"{FIGURES}/")):
        name, _, kind = entry.key.removeprefix(f"{FIGURES}/").rpartition(".")
        if entry.key not in written and kind in KINDS and ours.fullmatch(name):
            storage.delete(entry.key)
