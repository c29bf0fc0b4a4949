"""Results of a run for a notebook: everything that an output holds, as pandas frames."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import ObjectNotFoundError
from cluster.storage import Storage, StorageSpec
from jobs.stereoset.frames import rows_frame, vectors_frame
from jobs.stereoset.inventory import take_inventory
from jobs.stereoset.summary import summarise


@dataclass(frozen=True)
class Results:
    """Frames of one output; docs/results.md lists their columns.

    Attributes:
        baseline, steered: rows, one for each example and cell; partition columns last.
        cells, pooled: the summary's tables.
        vectors: model, split, bias_type, layer, fold (null: of all examples), vector (float32 [D]).
    """

    baseline: pd.DataFrame
    steered: pd.DataFrame
    cells: pd.DataFrame
    pooled: pd.DataFrame
    vectors: pd.DataFrame


def load(uri: str, endpoint_url: str | None = None) -> Results:
    """The results of a run, finished or not, from a folder or ``s3://bucket/prefix``.

    Rows are those of finished tasks, each part checked against its digest. The summary is the one
    that the last ``report`` has left; where there is none it is computed. Nothing is written.

    Args:
        endpoint_url: of an S3-compatible store.

    Raises:
        UserActionError: no run at this place, or damaged parts.
        CorruptPartError: a part whose rows are not those of its digest.
    """
    storage = StorageSpec(uri, endpoint_url).open()
    storage.check_reachable()
    inventory = take_inventory(storage)
    try:
        cells, pooled = (_stored(storage, name) for name in ("cells", "pooled"))
    except ObjectNotFoundError:
        summary = summarise(storage, inventory)
        cells, pooled = summary.cells.to_pandas(), summary.pooled.to_pandas()
    return Results(
        baseline=rows_frame(storage, inventory, "baseline"),
        steered=rows_frame(storage, inventory, "steered"),
        cells=cells,
        pooled=pooled,
        vectors=vectors_frame(inventory.vectors),
    )


def _stored(storage: Storage, name: str) -> pd.DataFrame:
    data = storage.read(f"summary/{name}.parquet")
    frame: pd.DataFrame = pq.read_table(pa.BufferReader(data)).to_pandas()
    return frame
