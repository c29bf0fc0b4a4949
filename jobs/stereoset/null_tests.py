"""Where the effect of fitted vectors stands among those of draws that mean nothing.

Under the hypothesis that the labels do not matter, the fitted vector is one more draw with shuffled
labels, so its rank among k + 1 vectors is uniform, and (1 + draws at least as large) / (1 + k) is a
p-value. Every draw is scored under its own labels: each has the advantage that the fitted vector
has of being scored on what it was fitted to. For random directions the same number says how many
directions do as much.

Source: Phipson and Smyth 2010, "Permutation p-values should never be zero".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

Row = Mapping[str, Any]
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
    """A row for each estimate, null and row of the fitted vectors that has draws.

    Args:
        fitted: by the name of the vectors, their rows of cells and of pooled cells.
        draws: rows of ``summary/nulls``: the same keys, and ``null``, ``vectors``, ``draw``.
        has_intent: whether a coefficient has a direction that was meant. An effect is then large if
            it is large in this direction, otherwise if it is large in size.
    """
    by_key: dict[tuple[Any, ...], list[Row]] = {}
    kinds: dict[tuple[str, str | None], None] = {}
    for row in draws:
        kinds[row["null"], row["vectors"]] = None
        by_key.setdefault((row["null"], row["vectors"], *(row[k] for k in _KEYS)), []).append(row)
    for vectors, rows in fitted.items():
        of_nulls = stand_for(vectors, kinds)
        for row in rows:
            if row["coeff"] == 0:
                continue
            key = tuple(row[k] for k in _KEYS)
            for null, stands_for in of_nulls.items():
                of_key = by_key.get((null, stands_for, *key), [])
                for name in ESTIMATES:
                    yield from _tested(row, name, null, vectors, of_key, has_intent=has_intent)


def stand_for(vectors: str, kinds: Collection[tuple[str, str | None]]) -> dict[str, str | None]:
    """By null, the ``vectors`` of the draws that these fitted vectors are compared with.

    With `unit: stream` one draw of random directions serves both kinds of vectors; and an output
    of an earlier version does not say which vectors its draws stand for.

    Args:
        kinds: each (null, vectors) that there are draws of.
    """
    return {
        null: next(v for v in candidates if (null, v) in kinds)
        for null in dict.fromkeys(null for null, _ in kinds)
        for candidates in [(vectors, *(["in_sample"] if null == "random" else []), None)]
        if any((null, v) in kinds for v in candidates)
    }


def _tested(
    row: Row, name: str, null: str, vectors: str, draws: Iterable[Row], *, has_intent: bool
) -> Iterator[dict[str, Any]]:
    def size(value: float) -> float:
        if not has_intent:
            return abs(value)
        return float(value if row["coeff"] > 0 else -value)

    values = [draw[name] for draw in draws]
    if not values or row[name] is None or None in values:
        return
    rank = 1 + sum(size(value) >= size(row[name]) for value in values)
    yield {
        **{key: row[key] for key in _KEYS},
        "estimate": name,
        "null": null,
        "vectors": vectors,
        "value": row[name],
        "num_draws": len(values),
        "rank": rank,
        "p": rank / (1 + len(values)),
    }
