"""Numbers of a table's rows that hold for several rows together: ranks among draws, q-values.

Under the hypothesis that the labels do not matter, the fitted vector is one more draw with shuffled
labels, so its rank among k + 1 vectors is uniform, and (1 + draws at least as large) / (1 + k) is a
p-value. Every draw is scored under its own labels: each has the advantage that the fitted vector
has of being scored on what it was fitted to. For random directions the same number says how many
directions do as much.

Sources: Phipson and Smyth 2010, "Permutation p-values should never be zero"; Benjamini and Hochberg
1995 (q-values).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import false_discovery_control

Row = Mapping[str, Any]


def add_q_values(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Add ``<name>_q`` to each row (Benjamini-Hochberg): one family over all rows and names.

    Coefficient 0 changes nothing and is no test. A ``<name>_p`` that is None has no q.
    """
    for row in rows:
        row |= {f"{name}_q": None for name in names}
    tested = [row for row in rows if row["coeff"] != 0]
    at = [(row, name) for row in tested for name in names if row[f"{name}_p"] is not None]
    if at:
        adjusted = false_discovery_control([row[f"{name}_p"] for row, name in at])
        for (row, name), q in zip(at, adjusted, strict=True):
            row[f"{name}_q"] = float(q)


def null_tests(
    fitted: Mapping[str, Iterable[Row]],
    draws: Iterable[Row],
    *,
    keys: Sequence[str],
    estimates: Sequence[str],
    has_intent: bool,
) -> Iterator[dict[str, Any]]:
    """A row for each estimate, null and row of the fitted vectors that has draws.

    Args:
        fitted: by the name of the vectors, their rows of cells and of pooled cells.
        draws: rows with the same keys, and ``null``, ``vectors``, ``draw``.
        keys: columns that tell rows of one kind of vectors apart; ``coeff`` is one of them.
        has_intent: whether a coefficient has a direction that was meant. An effect is then large if
            it is large in this direction, otherwise if it is large in size.
    """
    by_key: dict[tuple[Any, ...], list[Row]] = {}
    kinds: dict[tuple[str, str | None], None] = {}
    for row in draws:
        kinds[row["null"], row["vectors"]] = None
        by_key.setdefault((row["null"], row["vectors"], *(row[k] for k in keys)), []).append(row)
    for vectors, rows in fitted.items():
        of_nulls = stand_for(vectors, kinds)
        for row in rows:
            if row["coeff"] == 0:
                continue
            key = {name: row[name] for name in keys}
            for null, stands_for in of_nulls.items():
                of_key = by_key.get((null, stands_for, *key.values()), [])
                for name in estimates:
                    for found in _tested(row, name, of_key, has_intent=has_intent):
                        yield {**key, "estimate": name, "null": null, "vectors": vectors, **found}


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
    row: Row, name: str, draws: Iterable[Row], *, has_intent: bool
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
        "value": row[name],
        "num_draws": len(values),
        "rank": rank,
        "p": rank / (1 + len(values)),
    }
