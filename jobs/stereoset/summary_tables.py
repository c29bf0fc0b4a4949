"""The columns of the summary's tables."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.storage import Storage
from steering_core.dose_response import MONOTONE
from steering_core.quantities import (
    CHANGES,
    NET_FLOWS,
    STEREOSET_ESTIMATES,
    TESTED,
    cell_quantities,
)
from steering_core.stereoset import LABELS

SHARES = tuple(f"share_{label.replace('-', '_')}" for label in LABELS)
HEADLINE_ESTIMATES = (*NET_FLOWS, *CHANGES, "anti_rise_percent")
FEW_TERMS = 5
"""A row of fewer target terms is marked: its interval rests on very little."""

_GROUP_FIELDS = [(name, pa.string()) for name in ("model", "split", "bias_type")]
_COUNT_FIELDS = [(name, pa.int64()) for name in ("num_examples", "num_terms", "num_non_finite")]


def _with_intervals(names: tuple[str, ...]) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", pa.float64()) for name in names for end in ("", "_low", "_high")]


def cells_schema() -> pa.Schema:
    """Each quantity with ``_low`` and ``_high``; those of ``TESTED`` also with ``_p``, ``_q``."""
    return pa.schema(
        [
            *_GROUP_FIELDS,
            ("layer", pa.int32()),
            ("coeff", pa.float64()),
            *_COUNT_FIELDS,
            ("few_terms", pa.bool_()),
            *_with_intervals(cell_quantities()),
            *((f"{name}{end}", pa.float64()) for name in TESTED for end in ("_p", "_q")),
            ("icc_s2a", pa.float64()),
            ("dose", pa.float64()),
        ]
    )


def nulls_schema() -> pa.Schema:
    """``vectors``: the fitted vectors that a draw stands for."""
    fields = [("null", pa.string()), ("vectors", pa.string()), ("draw", pa.int32())]
    return pa.schema([*fields, *cells_schema()])


BASELINE_SCHEMA = pa.schema(
    [
        *_GROUP_FIELDS,
        *_COUNT_FIELDS,
        *_with_intervals((*STEREOSET_ESTIMATES, *SHARES)),
    ]
)
HEADLINE_SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("split", pa.string()),
        ("coeff", pa.float64()),
        ("vectors", pa.string()),
        *((name, pa.int64()) for name in ("num_bias_types", "num_layers", "num_undefined")),
        *_with_intervals(HEADLINE_ESTIMATES),
    ]
)
DOSE_RESPONSE_SCHEMA = pa.schema(
    [
        *_GROUP_FIELDS,
        ("layer", pa.int32()),
        ("vectors", pa.string()),
        ("num_points", pa.int64()),
        *_COUNT_FIELDS,
        ("few_terms", pa.bool_()),
        *_with_intervals(MONOTONE),
    ]
)
"""One row for each layer of a group, and pooled; over all coefficients together."""
FINDINGS_SCHEMA = pa.schema(
    [
        *_GROUP_FIELDS,
        ("layer", pa.int32()),
        ("coeff", pa.float64()),
        ("estimate", pa.string()),
        *((name, pa.float64()) for name in ("value", "low", "high", "p")),
    ]
)
"""What the finding may choose from: the widest rows; intervals and p hold for all of a model's
rows together."""


def stored_table(storage: Storage, name: str) -> pa.Table:
    """A table of ``summary/`` as the last report has left it.

    Raises:
        ObjectNotFoundError: no report has left it.
    """
    return pq.read_table(pa.BufferReader(storage.read(f"summary/{name}.parquet")))
