"""The columns of the summary's tables."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage
from steering_core.metrics import CHANGES, ESTIMATES, STEREOSET_ESTIMATES
from steering_core.stereoset import LABELS

CELL_ESTIMATES = (
    *ESTIMATES,
    *STEREOSET_ESTIMATES,
    *(f"{name}_change" for name in STEREOSET_ESTIMATES),
)
"""Each with ``_low`` and ``_high``."""
TESTED = tuple(f"flow_{name}" for name in CHANGES)
"""Each with ``_p`` and ``_q``."""
SHARES = tuple(f"share_{label.replace('-', '_')}" for label in LABELS)

_GROUP_FIELDS = [(name, pa.string()) for name in ("model", "split", "bias_type")]
_COUNT_FIELDS = [("num_examples", pa.int64()), ("num_non_finite", pa.int64())]


def _with_intervals(names: tuple[str, ...]) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", pa.float64()) for name in names for end in ("", "_low", "_high")]


CELLS_SCHEMA = pa.schema(
    [
        *_GROUP_FIELDS,
        ("layer", pa.int32()),
        ("coeff", pa.float64()),
        *_COUNT_FIELDS,
        *_with_intervals(CELL_ESTIMATES),
        *((f"{name}{end}", pa.float64()) for name in TESTED for end in ("_p", "_q")),
    ]
)
NULLS_SCHEMA = pa.schema([("null", pa.string()), *CELLS_SCHEMA])
BASELINE_SCHEMA = pa.schema(
    [
        *_GROUP_FIELDS,
        *_COUNT_FIELDS,
        *_with_intervals((*STEREOSET_ESTIMATES, *SHARES)),
    ]
)


def stored_table(storage: Storage, name: str) -> pa.Table:
    """A table of ``summary/`` as the last report has left it.

    Raises:
        ObjectNotFoundError: no report has left it.
    """
    return pq.read_table(pa.BufferReader(storage.read(f"summary/{name}.parquet")))
