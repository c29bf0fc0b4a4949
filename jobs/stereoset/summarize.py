"""The summary's tables from pandas frames, so that rows can be filtered and summarized again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_numeric_dtype

from jobs.stereoset.estimates import model_estimates
from jobs.stereoset.scored_rows import (
    KL_COLUMN,
    SCORE_COLUMNS,
    TOKEN_COLUMNS,
    Divergences,
    ScoredRows,
    SteeredRows,
)
from jobs.stereoset.summary_keys import SummaryKey, with_pooled
from jobs.stereoset.summary_sums import GroupSums
from jobs.stereoset.summary_tables import HEADLINE_SCHEMA, cells_schema
from steering_core.stereoset import LABELS
from steersweep.errors import UserError

Vectors = Literal["in_sample", "held_out", "file"]
_GROUP = ["model", "split", "bias_type"]
_ROWS = [*_GROUP, "example_id", "target", *SCORE_COLUMNS, "choice"]
_CELL = ["layer", "coeff"]


def summarize_frames(
    baseline: pd.DataFrame, steered: pd.DataFrame, vectors: Vectors
) -> dict[str, pd.DataFrame]:
    """``cells``, ``pooled`` and ``headline`` of these rows; see ``steersweep.summarize``."""
    if vectors not in get_args(Vectors):
        raise UserError(f"vectors must be one of {', '.join(get_args(Vectors))}, got {vectors!r}")
    _check("baseline", baseline, _ROWS)
    _check("steered", steered, [*_ROWS, *_CELL])
    models: dict[str, list[GroupSums]] = {}
    for model, sums in _groups(baseline, steered):
        models.setdefault(model, []).append(sums)
    tables: dict[str, list[dict[str, object]]] = {"cells": [], "pooled": [], "headline": []}
    for model, groups in models.items():
        cells = {
            SummaryKey(g.split, g.bias_type, layer, coeff)
            for g in groups
            for layer, coeff in g.cells
        }
        found = model_estimates(groups, with_pooled(cells), vectors=vectors)
        for name, rows in tables.items():
            rows += [{"model": model, **row} for row in getattr(found, name)]
    schemas = {"cells": cells_schema(), "pooled": cells_schema(), "headline": HEADLINE_SCHEMA}
    return {
        name: pa.Table.from_pylist(rows, schema=schemas[name]).to_pandas()
        for name, rows in tables.items()
    }


def _check(name: str, frame: pd.DataFrame, needed: list[str]) -> None:
    """Refuse a frame that lacks a column, or a value that rows are grouped by."""
    like = f"steersweep.load(...).{name}"
    if missing := [column for column in needed if column not in frame.columns]:
        raise UserError(
            f"the frame {name} lacks {', '.join(missing)}; its columns must be those of {like}"
        )
    keys = [column for column in (*_GROUP, "example_id", "target", *_CELL) if column in needed]
    if empty := [column for column in keys if frame[column].isna().any()]:
        raise UserError(
            f"the frame {name} has rows without {', '.join(empty)}; its rows must be those of "
            f"{like}"
        )
    unknown = set(frame["choice"].dropna()) - set(LABELS)
    if unknown:
        raise UserError(
            f"the frame {name} has the choice {min(map(str, unknown))!r}; choices are "
            f"{', '.join(LABELS)}"
        )
    for column in SCORE_COLUMNS:
        if not is_numeric_dtype(frame[column]):
            raise UserError(f"the column {column} of the frame {name} does not hold numbers")


def _groups(baseline: pd.DataFrame, steered: pd.DataFrame) -> Iterator[tuple[str, GroupSums]]:
    """(Model, sums) of each group that has steered rows."""
    before = dict(iter(baseline.groupby(_GROUP, sort=True)))
    for key, rows in steered.groupby(_GROUP, sort=True):
        model, split, bias_type = map(str, key)
        name = f"{model}/{split}/{bias_type}"
        if key not in before:
            raise UserError(f"the frame baseline has no row of {name}, which steered has")
        unsteered = before[key].set_index("example_id", drop=False)
        if unsteered.index.has_duplicates:
            raise UserError(f"the frame baseline has an example of {name} twice")
        # Examples that were filtered out of the steered rows alone are no part of the group.
        unsteered = unsteered[unsteered.index.isin(rows["example_id"])]
        scored = _scored(unsteered)
        cells = [
            _cell(name, of_cell, unsteered, scored) for _, of_cell in rows.groupby(_CELL, sort=True)
        ]
        yield model, GroupSums.of_rows(split, bias_type, [scored], cells)


def _cell(
    name: str,
    rows: pd.DataFrame,
    unsteered: pd.DataFrame,
    scored: ScoredRows,
) -> SteeredRows:
    layer, coeff = int(rows["layer"].iloc[0]), float(rows["coeff"].iloc[0])
    place = f"{name}, layer {layer}, coefficient {coeff:g}"
    rows = rows.set_index("example_id", drop=False)
    if rows.index.has_duplicates:
        raise UserError(f"the frame steered has an example of {place} twice")
    if unknown := rows.index.difference(unsteered.index).tolist():
        raise UserError(
            f"the frame baseline lacks {len(unknown)} examples of {place}, first {unknown[0]!r}"
        )
    if len(rows) < len(unsteered):
        raise UserError(
            f"the frame steered has {len(rows)} of {len(unsteered)} examples of {place}; keep the "
            "same examples in every cell, so that cells can be compared and pooled"
        )
    rows = rows.loc[unsteered.index]
    same = _scored(rows)
    return SteeredRows(
        scored, ((layer, coeff),), same.scores[None], same.choices[None], _divergences(rows)
    )


def _divergences(rows: pd.DataFrame) -> Divergences | None:
    if not {KL_COLUMN, *TOKEN_COLUMNS} <= {*rows.columns}:
        return None
    num_tokens = rows[TOKEN_COLUMNS].to_numpy(float).sum(axis=1)
    return Divergences(rows[KL_COLUMN].to_numpy(float)[None], num_tokens[None])


def _scored(rows: pd.DataFrame) -> ScoredRows:
    number = {label: index for index, label in enumerate(LABELS)}
    return ScoredRows(
        example_ids=pa.array(rows["example_id"].astype(str)),
        targets=rows["target"].to_numpy(str),
        scores=rows[SCORE_COLUMNS].to_numpy(float),
        choices=rows["choice"].map(number).fillna(-1).to_numpy(np.int64),
    )
