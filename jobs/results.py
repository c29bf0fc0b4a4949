"""Results of a run for a notebook: everything that an output holds, as pandas frames."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from cluster.errors import ObjectNotFoundError
from cluster.storage import Storage, StorageSpec
from jobs.stereoset.frames import rows_frame, vectors_frame
from jobs.stereoset.inventory import take_inventory
from jobs.stereoset.summary import summarise
from jobs.stereoset.summary_tables import NULLS_SCHEMA, stored_table


@dataclass(frozen=True)
class Results:
    """Frames of one output; docs/results.md lists their columns.

    Attributes:
        baseline, steered: rows, one for each example and cell; partition columns last.
        cells, pooled, nulls, geometry: the summary's tables.
        vectors: model, split, bias_type, layer, fold (null: of all examples), vector (float32 [D]).
    """

    baseline: pd.DataFrame
    steered: pd.DataFrame
    cells: pd.DataFrame
    pooled: pd.DataFrame
    nulls: pd.DataFrame
    geometry: pd.DataFrame
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
    names = ("cells", "pooled", "geometry")
    try:
        tables = {name: _stored(storage, name) for name in names}
        tables["nulls"] = _stored_nulls(storage)
    except ObjectNotFoundError:
        summary = summarise(storage, inventory)
        tables = {name: getattr(summary, name).to_pandas() for name in (*names, "nulls")}
    return Results(
        baseline=rows_frame(storage, inventory, "baseline"),
        steered=rows_frame(storage, inventory, "steered"),
        vectors=vectors_frame(inventory.vectors),
        **tables,
    )


def _stored(storage: Storage, name: str) -> pd.DataFrame:
    frame: pd.DataFrame = stored_table(storage, name).to_pandas()
    return frame


def _stored_nulls(storage: Storage) -> pd.DataFrame:
    try:
        return _stored(storage, "nulls")
    except ObjectNotFoundError:  # a sweep without any leaves no table
        frame: pd.DataFrame = NULLS_SCHEMA.empty_table().to_pandas()
        return frame
