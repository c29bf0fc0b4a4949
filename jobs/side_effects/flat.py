"""All measured rows in one layout, whatever their data set, for ``steersweep export``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from jobs.data_source import DataSource
from jobs.results import FlatRows
from jobs.side_effects.rows import OWN, Measured, MeasuredCell
from steering_core.datasets.base import ScoredChoices
from steering_core.scoring import choose


def flat_schema(axes: Sequence[str]) -> pa.Schema:
    """Columns of the file: a row for each example under each steering.

    ``layer``, ``coeff``, ``dose`` and ``prompt`` are null in unsteered rows. ``set`` is ``data``
    for the sweep's own data, and ``group`` the group of it that is measured, if that is not the
    vector's. ``example_group`` is the group of the example as JSON. Lists have an entry for each
    candidate: ``scores`` are means and ``sums`` totals of log-probabilities in nats.
    """
    return pa.schema(
        [
            ("model", pa.string()),
            *((axis, pa.string()) for axis in axes),
            ("vectors", pa.string()),
            ("layer", pa.int32()),
            ("coeff", pa.float64()),
            ("dose", pa.float64()),
            ("prompt", pa.string()),
            ("kind", pa.string()),
            ("set", pa.string()),
            ("group", pa.string()),
            ("example_id", pa.string()),
            ("example_group", pa.string()),
            ("cluster", pa.string()),
            ("question", pa.string()),
            ("candidates", pa.list_(pa.string())),
            ("labels", pa.list_(pa.string())),
            ("scores", pa.list_(pa.float64())),
            ("sums", pa.list_(pa.float64())),
            ("num_tokens", pa.list_(pa.int32())),
            ("choice_index", pa.int8()),
        ]
    )


def flat_rows(
    measured: Iterable[Measured],
    axes: Sequence[str],
    num_rows: int,
    sources: Sequence[DataSource],
) -> FlatRows:
    """Every measured row with its texts, unsteered ones first and once.

    Args:
        num_rows: that are finished.
        sources: of the texts.
    """
    schema = flat_schema(axes)
    return FlatRows(
        schema=schema,
        num_rows=num_rows,
        tables=_tables(measured, axes, schema),
        source=DataSource.joined(sources),
    )


def _tables(
    measured: Iterable[Measured], axes: Sequence[str], schema: pa.Schema
) -> Iterator[pa.Table]:
    unsteered: set[tuple[str, str]] = set()
    prompted: set[tuple[str, str, str]] = set()
    none = MeasuredCell(None, None, None, ScoredChoices([], np.empty((0, 1)), np.empty((0, 1))))
    for rows in measured:
        data = (rows.model, rows.examples)
        if data not in unsteered:
            unsteered.add(data)
            yield _table(rows, none._replace(scored=rows.baseline), axes, schema, is_steered=False)
        if rows.prompt and rows.set != OWN:
            # They are the same rows for every group that the prompt is compared on.
            key = (rows.model, rows.prompt, rows.set)
            if key in prompted:
                continue
            prompted.add(key)
        for cell in rows.cells:
            yield _table(rows, cell, axes, schema, is_steered=True)


def _table(
    rows: Measured, cell: MeasuredCell, axes: Sequence[str], schema: pa.Schema, *, is_steered: bool
) -> pa.Table:
    scored = cell.scored
    sizes = [len(example.candidates) for example in scored.examples]
    chosen = choose(scored.sums, scored.is_there)
    by_vector = is_steered and not rows.prompt
    # Unsteered rows of the own data belong to its group, whichever vector steers them.
    names_group = by_vector or rows.kind == "own"
    num = len(sizes)

    def same(value: object) -> list[object]:
        return [value] * num

    def lists(array: np.ndarray) -> list[np.ndarray]:
        return [array[n, :size] for n, size in enumerate(sizes)]

    columns = {
        "model": same(rows.model),
        **{axis: same(rows.place[axis] if names_group else None) for axis in axes},
        "vectors": same(rows.vectors if by_vector else None),
        "layer": same(cell.layer),
        "coeff": same(cell.coeff),
        "dose": same(cell.dose),
        "prompt": same(rows.prompt if is_steered and rows.prompt else None),
        "kind": same(rows.kind),
        "set": same(rows.set),
        "group": same(rows.group or None),
        "example_id": [example.example_id for example in scored.examples],
        "example_group": [json.dumps(dict(e.group)) for e in scored.examples],
        "cluster": [example.cluster or example.example_id for example in scored.examples],
        "question": [example.prompt for example in scored.examples],
        "candidates": [example.texts for example in scored.examples],
        "labels": [example.labels for example in scored.examples],
        "scores": lists(scored.scores),
        "sums": lists(scored.sums),
        "num_tokens": lists(scored.num_tokens),
        "choice_index": [int(index) if index >= 0 else None for index in chosen],
    }
    return pa.table(columns, schema=schema)
