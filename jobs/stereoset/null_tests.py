"""Where the effect of fitted vectors stands among those of draws that mean nothing.

See ``steering_core.stats.ranks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from steering_core.stats import ranks
from steering_core.stats.ranks import Row

ESTIMATES = ("s2a", "flow_s2a")

NULL_TESTS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("model", "split", "bias_type")),
        ("layer", pa.int32()),
        ("coeff", pa.float64()),
        *((name, pa.string()) for name in ("estimate", "null", "vectors")),
        ("value", pa.float64()),
        ("num_draws", pa.int32()),
        ("rank", pa.int32()),
        ("p", pa.float64()),
    ]
)
"""``vectors``: the fitted ones that are compared; ``value``: their estimate; ``rank``: 1 if no draw
is at least as large."""

_KEYS = ("model", "split", "bias_type", "layer", "coeff")


def null_tests(
    fitted: Mapping[str, Iterable[Row]], draws: Iterable[Row], *, has_intent: bool
) -> Iterator[dict[str, Any]]:
    """Rows of ``summary/null_tests``; ``draws`` are those of ``summary/nulls``."""
    return ranks.null_tests(fitted, draws, keys=_KEYS, estimates=ESTIMATES, has_intent=has_intent)
