"""All figures of a sweep, made of its tables, and written beside them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from itertools import chain

import pandas as pd
from matplotlib.figure import Figure

from cluster.storage import Storage
from jobs.stereoset.figures.anisotropy import anisotropy
from jobs.stereoset.figures.bars import bars
from jobs.stereoset.figures.curves import curves
from jobs.stereoset.figures.flows import flows
from jobs.stereoset.figures.heat_maps import heat_maps
from jobs.stereoset.figures.selection import drawn_coeffs
from jobs.stereoset.figures.side_by_side import models, nulls
from jobs.stereoset.figures.style import styled
from jobs.stereoset.figures.vector_lines import vector_lines
from jobs.stereoset.figures.vector_maps import vector_maps

FIGURES = "figures"
_DPI = 200
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
"""Without times and versions: equal results give equal files."""
_OURS = re.compile(
    r"figures/(anisotropy|(bars|flows|heat-map|curves|models|nulls|vectors)-[^/]*)\.(png|pdf)"
)


def make_figures(
    cells: pd.DataFrame,
    pooled: pd.DataFrame,
    vectors: pd.DataFrame,
    *,
    of_nulls: pd.DataFrame | None = None,
    geometry: pd.DataFrame | None = None,
) -> Mapping[str, Figure]:
    """Figures by name, of what is there: a kind without data is left out.

    They belong to no pyplot session; ``figure.savefig`` writes one, a notebook displays it.

    Args:
        cells, pooled, of_nulls, geometry: tables of the summary.
        vectors: columns model, split, bias_type, layer, fold (null: of all examples), vector.
    """
    with styled():
        of_cells = (
            ()
            if cells.empty
            else chain(
                bars(cells),
                flows(cells, pooled),
                heat_maps(cells, pooled),
                curves(cells, pooled),
                models(cells, pooled),
                () if of_nulls is None else nulls(cells, pooled, of_nulls),
            )
        )
        of_vectors = () if vectors.empty else chain(vector_lines(vectors), vector_maps(vectors))
        of_states = () if geometry is None else anisotropy(geometry)
        return dict(chain(of_cells, of_vectors, of_states))


def what_is_drawn(figures: Mapping[str, Figure], cells: pd.DataFrame) -> str:
    """How many figures there are, and of how many coefficients where not all have their own."""
    drawn, every = len(drawn_coeffs(cells)), cells["coeff"].nunique()
    some = f"; bars, flows and models at {drawn} of {every} coefficients" if drawn < every else ""
    return f"{len(figures)} as PNG and PDF{some}"


def write_figures(storage: Storage, figures: Mapping[str, Figure]) -> None:
    """Write each to ``figures/`` as PNG and PDF; those of an earlier report go, if not made again.

    Equal figures give equal bytes.
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
        if entry.key not in written and _OURS.fullmatch(entry.key):
            storage.delete(entry.key)
