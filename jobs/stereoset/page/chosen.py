"""Which rows the figures of a page show if there are more than a page holds.

The choice must not depend on what the rows say: layers, coefficients and models are left out
evenly, whatever their results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.figures.selection import spread
from jobs.stereoset.summary_keys import is_cell

MOST_ROWS = 2000
_THINNED = {"layer": "layers", "coeff": "coefficients", "model": "models"}

_Row = Mapping[str, Any]


def shown(
    rows: Sequence[_Row], coeff: float | None = None, table: str = "cells"
) -> tuple[list[_Row], str]:
    """The rows that are shown, and a sentence about them; no sentence if those are all.

    Of layers, coefficients and models, evenly spread ones with the first and the last. Rows that
    are pooled over layers stay, and are pooled over all of them.

    Args:
        rows: cells and pooled cells.
        coeff: a coefficient that is among them in any case: the page's text is about it.
        table: of ``summary/`` that has every cell: ``cells`` or ``held_out``.
    """
    if len(rows) <= MOST_ROWS:
        return list(rows), ""
    every = {axis: sorted({r[axis] for r in rows if r[axis] is not None}) for axis in _THINNED}
    most = {axis: len(values) for axis, values in every.items()}
    while True:
        kept = {axis: set(spread(values, most[axis])) for axis, values in every.items()}
        added = {coeff} & set(every["coeff"]) - kept["coeff"]
        kept["coeff"] |= added
        chosen = [r for r in rows if all(r[a] is None or r[a] in kept[a] for a in _THINNED)]
        # Models go last: leaving out layers or coefficients loses less.
        axis = max("layer", "coeff", key=most.__getitem__)
        axis = axis if most[axis] > 1 else "model"
        if len(chosen) <= MOST_ROWS or most[axis] < 2:
            break
        most[axis] = most[axis] * 9 // 10
    chosen = chosen[:MOST_ROWS]
    return chosen, _sentence(rows, chosen, every, table, names_one=bool(added))


def _sentence(
    rows: Sequence[_Row],
    chosen: Sequence[_Row],
    every: Mapping[str, Sequence[Any]],
    table: str,
    *,
    names_one: bool,
) -> str:
    parts = []
    for axis, name in _THINNED.items():
        num = len({row[axis] for row in chosen} - {None})
        if num < len(every[axis]):
            parts.append(f"{num:,} of {len(every[axis]):,} {name}")
    num_shown, num_cells = (sum(map(is_cell, some)) for some in (chosen, rows))
    one = ", and the coefficient that the finding is about" if names_one else ""
    return (
        f"There are {num_cells:,} cells. The figures show {num_shown:,} of them: "
        f"{', '.join(parts)}, evenly spread and chosen without regard to their results{one}. "
        f"summary/{table}.csv has every cell, "
        f"summary/{'pooled' if table == 'cells' else 'held_out_pooled'}.csv all that are pooled."
    )
