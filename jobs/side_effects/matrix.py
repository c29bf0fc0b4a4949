"""Statements that hold for all changes of a model's matrix together.

Shapes: F changes of the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jobs.estimates.cells import MOST_FLIPPED
from jobs.side_effects.sums import Measure, SteeredData, Steering
from steering_core.stats.clusters import LEVEL, side_by_side
from steering_core.stats.flips import NUM_FLIPS, signs, simultaneous

Cell = tuple[Steering, Measure]


@dataclass(frozen=True)
class Statement:
    """What can be said of a change next to all others.

    Attributes:
        p: NaN if nothing can be said; so are the ends.
        is_clear: whether neither the simultaneous interval nor the change's own one holds 0.
    """

    p: float = np.nan
    low: float = np.nan
    high: float = np.nan
    is_clear: bool = False


def statements(
    cells: Mapping[Cell, SteeredData], num_flips: int = NUM_FLIPS
) -> dict[Cell, Statement]:
    """A statement for each cell of a model's matrix.

    Cells are one family (max-t). Those that no flip of signs could show to be clear are not part of
    it: undefined changes, and those of too few clusters (``_have_enough``).
    """
    found = dict.fromkeys(cells, Statement())
    defined = [
        cell
        for cell, data in cells.items()
        if np.isfinite(data.change(cell[1].metric).estimate.value[0])
    ]
    tested = _have_enough({cell: cells[cell] for cell in defined})
    if not tested:
        return found
    changes = [cells[cell].change(cell[1].metric).change for cell in tested]
    together = side_by_side([change.estimate for change in changes], MOST_FLIPPED)
    family = simultaneous(together, signs(len(together.clusters), num_flips))
    varies = together.standard_error > 0
    lows, highs = (np.where(varies, end, np.nan) for end in (family.low, family.high))
    for cell, change, p, low, high in zip(tested, changes, family.p, lows, highs, strict=True):
        is_clear = (low > 0 or high < 0) and (change.low > 0 or change.high < 0)
        found[cell] = Statement(float(p), float(low), float(high), bool(is_clear))
    return found


def _have_enough(cells: Mapping[Cell, SteeredData]) -> list[Cell]:
    """Cells of so many clusters that they do not spoil the statements about all others.

    In one of 2^(K - 1) flips all K clusters of a data set have the same sign, and its statistic is
    as large as the observed one. If that is large because steering does something there, it is
    larger than any other in these flips. They must be so rare, all data sets together, that they
    leave half of the 5 % to chance: eight clusters suffice for three data sets, eleven for 25.
    """
    num_clusters = {
        cell: len(data.change(cell[1].metric).estimate.clusters) for cell, data in cells.items()
    }
    different = {(data.baseline.examples, num_clusters[c]) for c, data in cells.items()}
    chance, enough = 0.0, set()
    for examples, num in sorted(different, key=lambda pair: (-pair[1], pair[0])):
        chance += 2.0 ** (1 - num)
        if chance <= (1 - LEVEL) / 2:
            enough.add((examples, num))
    return [
        cell
        for cell, data in cells.items()
        if (data.baseline.examples, num_clusters[cell]) in enough
    ]
