"""What an output holds as pandas frames: its rows, its vectors, its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.scoring.inventory import Inventory
from jobs.scoring.plan import VectorSet
from jobs.scoring.tables import STEERED
from steering_core.vectors import SteeringVectors
from steersweep.errors import UserError


def rows_frame(
    storage: Storage, inventory: Inventory, table: str, schema: pa.Schema, axes: Sequence[str]
) -> pd.DataFrame:
    """Rows of every finished part of ``baseline`` or ``steered``, partition columns last.

    Args:
        schema: of the rows.
        axes: of the job's groups.

    Raises:
        UserError: a part that holds other examples than planned.
        CorruptPartError: a damaged part.
    """
    columns = ((name, pa.string()) for name in ("model", *axes))
    schema = pa.schema([*schema, *columns])
    tables = [schema.empty_table()]
    for task, task_id, key in inventory.parts_done(table):
        rows = read_part(storage, key, task_id)
        num_cells = max(1, len(task.cells))
        if rows["example_id"].to_pylist() != list(task.example_ids) * num_cells:
            raise UserError(
                f"{storage.uri_of(key)} holds other examples than planned; delete it to have "
                "it recomputed"
            )
        for name, value in task.group.columns.items():
            rows = rows.append_column(name, pa.repeat(value, len(rows)))
        tables.append(rows.cast(schema))
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame


def vectors_frame(
    vectors: Mapping[VectorSet, SteeringVectors], axes: Sequence[str]
) -> pd.DataFrame:
    """A row per fitted vector: its group, layer, fold (null: of all examples), float32 [D].

    Held-out vectors beside in-sample ones, and those of nulls, are left out.
    """
    rows = [
        (*of.group.columns.values(), layer, fold, vector)
        for of, of_group in vectors.items()
        if of.table == STEERED
        for layer in sorted(of_group.whole)
        for fold, vector in chain(
            [(None, of_group.whole[layer])], enumerate(of_group.folds.get(layer, ()))
        )
    ]
    frame = pd.DataFrame(rows, columns=["model", *axes, "layer", "fold", "vector"])
    return frame.astype({"layer": np.int32, "fold": "Int32"})
