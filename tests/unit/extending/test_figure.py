"""A new kind of figures: a function and one entry."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cluster.storage import StorageSpec
from jobs.figures.drawing import Drawing
from jobs.figures.page import Layout, page
from jobs.figures.write import write_figures
from jobs.stereoset.figures.make import (
    FigureData,
    FigureKind,
    figure_names,
    planned_figures,
    registered,
)
from tests.support.summaries import cells_frame, pooled_frame, vectors_frame_of

PNG = b"\x89PNG\r\n"


def histograms(data: FigureData) -> Iterator[tuple[str, Drawing]]:
    """A figure per model: its estimates of S to A."""
    for model, rows in data.cells.groupby("model"):
        yield f"histogram-{model}", partial(_histogram, rows, str(model))


def _histogram(rows: pd.DataFrame, model: str) -> Figure:
    figure, axes = page((1, 1), Layout(width=3.0, height=2.0), "Estimates", model)
    axes[0, 0].hist(rows["s2a"])
    return figure


HISTOGRAMS = FigureKind("histogram-.*", histograms)


def test_it_is_drawn_with_the_others_and_deleted_once_it_is_not(tmp_path: Path) -> None:
    storage = StorageSpec(str(tmp_path)).open()
    cells = cells_frame()
    with registered(HISTOGRAMS):
        planned = planned_figures(cells, pooled_frame(cells), vectors_frame_of({}))
        ours = {name: draw for name, draw in planned.items() if name.startswith("histogram-")}
        assert len(ours) == cells["model"].nunique() < len(planned)
        write_figures(storage, ours, figure_names(), processes=1)
        names = {entry.key for entry in storage.list("figures/")}
        assert names == {f"figures/{name}.{kind}" for name in ours for kind in ("png", "pdf")}
        for name in ours:
            assert storage.read(f"figures/{name}.png").startswith(PNG)
        write_figures(storage, {}, figure_names(), processes=1)
    assert not [*storage.list("figures/")]
