"""All figures of a sweep, made of its tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from itertools import chain

import pandas as pd
from matplotlib.figure import Figure

from jobs.figures.drawing import Drawing
from jobs.figures.style import styled
from jobs.stereoset.figures.anisotropy import anisotropy
from jobs.stereoset.figures.bars import bars
from jobs.stereoset.figures.curves import curves
from jobs.stereoset.figures.flows import flows
from jobs.stereoset.figures.heat_maps import heat_maps
from jobs.stereoset.figures.selection import drawn_coeffs
from jobs.stereoset.figures.side_by_side import held_out, models, nulls
from jobs.stereoset.figures.vector_lines import vector_lines
from jobs.stereoset.figures.vector_maps import vector_maps

NAMES = re.compile(r"anisotropy|(bars|flows|heat-map|curves|models|nulls|vectors|held-out)-.*")
"""Of all figures that are made here."""


def planned_figures(
    cells: pd.DataFrame,
    pooled: pd.DataFrame,
    vectors: pd.DataFrame,
    *,
    headline: pd.DataFrame | None = None,
    of_nulls: pd.DataFrame | None = None,
    geometry: pd.DataFrame | None = None,
    has_intent: bool = True,
    steered_with: str = "",
    in_sample: pd.DataFrame | None = None,
) -> Mapping[str, Drawing]:
    """Figures by name, still to be drawn; a kind without data is left out.

    Args:
        cells, pooled, headline, of_nulls, geometry: tables of the summary.
        vectors: columns model, split, bias_type, layer, fold (null: of all examples), vector.
        has_intent: whether steering is meant to push from stereotype to anti-stereotype.
        steered_with: the vectors of ``cells`` in words, which captions name: ``held-out vectors``.
        in_sample: cells and pooled cells of in-sample vectors, if ``cells`` are of held-out ones
            and both are there.
    """
    of = f"{steered_with[0].upper()}{steered_with[1:]}. " if steered_with else ""
    of_cells = (
        ()
        if cells.empty
        else chain(
            bars(cells, of, has_intent=has_intent),
            flows(cells, pooled, headline, of),
            heat_maps(cells, pooled, of),
            curves(cells, pooled, of),
            models(cells, pooled, of),
            () if in_sample is None else held_out(cells, pooled, in_sample),
            () if of_nulls is None else nulls(cells, pooled, of_nulls, of),
        )
    )
    of_vectors = () if vectors.empty else chain(vector_lines(vectors), vector_maps(vectors))
    of_states = () if geometry is None else anisotropy(geometry)
    return dict(chain(of_cells, of_vectors, of_states))


def make_figures(
    cells: pd.DataFrame,
    pooled: pd.DataFrame,
    vectors: pd.DataFrame,
    *,
    headline: pd.DataFrame | None = None,
    of_nulls: pd.DataFrame | None = None,
    geometry: pd.DataFrame | None = None,
) -> Mapping[str, Figure]:
    """``planned_figures``, drawn.

    They belong to no pyplot session; ``figure.savefig`` writes one, a notebook displays it.
    """
    planned = planned_figures(
        cells, pooled, vectors, headline=headline, of_nulls=of_nulls, geometry=geometry
    )
    with styled():
        return {name: draw() for name, draw in planned.items()}


def what_is_drawn(figures: Sized, cells: pd.DataFrame) -> str:
    """How many figures there are, and of how many coefficients where not all have their own."""
    drawn, every = len(drawn_coeffs(cells)), cells["coeff"].nunique()
    some = f"; bars, flows and models at {drawn} of {every} coefficients" if drawn < every else ""
    return f"{len(figures)} as PNG and PDF{some}"
