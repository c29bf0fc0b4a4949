"""All figures of a sweep, made of its tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from jobs.figures.drawing import Drawing
from jobs.figures.style import styled
from jobs.side_effects.figures import NAMES as SIDE_EFFECTS
from jobs.stereoset.figures.anisotropy import anisotropy
from jobs.stereoset.figures.bars import bars
from jobs.stereoset.figures.curves import curves
from jobs.stereoset.figures.flows import flows
from jobs.stereoset.figures.heat_maps import heat_maps
from jobs.stereoset.figures.selection import drawn_coeffs
from jobs.stereoset.figures.side_by_side import held_out, models, nulls
from jobs.stereoset.figures.vector_lines import vector_lines
from jobs.stereoset.figures.vector_maps import vector_maps

Named = Iterable[tuple[str, Drawing]]
"""Figures of one kind by name, still to be drawn."""


@dataclass(frozen=True)
class FigureData:
    """What figures are made of.

    Attributes:
        cells, pooled, headline, of_nulls, geometry: tables of the summary.
        vectors: columns model, split, bias_type, layer, fold (null: of all examples), vector.
        has_intent: whether steering is meant to push from stereotype to anti-stereotype.
        steered_with: a sentence that begins captions: ``Held-out vectors. ``
        in_sample: cells and pooled cells of in-sample vectors, if ``cells`` are of held-out ones
            and both are there.
    """

    cells: pd.DataFrame
    pooled: pd.DataFrame
    vectors: pd.DataFrame
    headline: pd.DataFrame | None = None
    of_nulls: pd.DataFrame | None = None
    geometry: pd.DataFrame | None = None
    has_intent: bool = True
    steered_with: str = ""
    in_sample: pd.DataFrame | None = None


@dataclass(frozen=True)
class FigureKind:
    """A kind of figures.

    Attributes:
        names: a regular expression of all names that its figures can have, so that a report deletes
            those that an earlier one left.
        plan: its figures of some data; none if the data lacks what they show.
    """

    names: str
    plan: Callable[[FigureData], Named]


def _of_cells(plan: Callable[[FigureData], Named]) -> Callable[[FigureData], Named]:
    """The same, but for a sweep without a complete cell, which has no such figure."""
    return lambda data: () if data.cells.empty else plan(data)


_KINDS: list[FigureKind] = [
    FigureKind(
        "bars-.*", _of_cells(lambda d: bars(d.cells, d.steered_with, has_intent=d.has_intent))
    ),
    FigureKind(
        "flows-.*", _of_cells(lambda d: flows(d.cells, d.pooled, d.headline, d.steered_with))
    ),
    FigureKind("heat-map-.*", _of_cells(lambda d: heat_maps(d.cells, d.pooled, d.steered_with))),
    FigureKind("curves-.*", _of_cells(lambda d: curves(d.cells, d.pooled, d.steered_with))),
    FigureKind("models-.*", _of_cells(lambda d: models(d.cells, d.pooled, d.steered_with))),
    FigureKind(
        "held-out-.*",
        _of_cells(
            lambda d: () if d.in_sample is None else held_out(d.cells, d.pooled, d.in_sample)
        ),
    ),
    FigureKind(
        "nulls-.*",
        _of_cells(
            lambda d: (
                () if d.of_nulls is None else nulls(d.cells, d.pooled, d.of_nulls, d.steered_with)
            )
        ),
    ),
    FigureKind(
        "vectors-.*",
        lambda d: () if d.vectors.empty else chain(vector_lines(d.vectors), vector_maps(d.vectors)),
    ),
    FigureKind("anisotropy", lambda d: () if d.geometry is None else anisotropy(d.geometry)),
]
"""In the order in which they are drawn. A new kind of figure is one entry."""


@contextmanager
def registered(kind: FigureKind) -> Iterator[None]:
    """Draw one more kind for as long as the context lasts: for tests."""
    _KINDS.append(kind)
    try:
        yield
    finally:
        _KINDS.remove(kind)


def figure_names() -> re.Pattern[str]:
    """The names of all figures of a report."""
    own = (f"(?:{kind.names})" for kind in _KINDS)
    return re.compile("|".join([*own, SIDE_EFFECTS.pattern]))


def planned_figures(
    cells: pd.DataFrame, pooled: pd.DataFrame, vectors: pd.DataFrame, **more: Any
) -> Mapping[str, Drawing]:
    """Figures by name, still to be drawn; a kind without data is left out.

    Args:
        cells, pooled, vectors, more: see ``FigureData``; ``steered_with`` may be a phrase, such as
            ``held-out vectors``, which becomes a sentence.
    """
    phrase = more.pop("steered_with", "")
    sentence = f"{phrase[0].upper()}{phrase[1:]}. " if phrase else ""
    data = FigureData(cells, pooled, vectors, steered_with=sentence, **more)
    return dict(chain.from_iterable(kind.plan(data) for kind in _KINDS))


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
