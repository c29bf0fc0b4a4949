"""What a summary has a row for: cells, and cells pooled over bias types, splits and layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from jobs.stereoset.groups import place_of

if TYPE_CHECKING:  # they load torch, which processes that draw figures do without
    from jobs.scoring.plan import PlannedTask

AXES = ("split", "bias_type", "layer")
POOLED = "all"
"""Stands for the split or the bias type where rows are pooled over it; a layer is None then."""


class SummaryKey(NamedTuple):
    """A cell of a group, or several pooled."""

    split: str
    bias_type: str
    layer: int | None
    coeff: float

    @property
    def is_cell(self) -> bool:
        """Whether it is one cell of one group."""
        return POOLED not in (self.split, self.bias_type) and self.layer is not None

    def and_pooled(self) -> Iterator[SummaryKey]:
        """The key of a cell, and of everything that the cell is pooled into."""
        axes = (self.split, POOLED), (self.bias_type, POOLED), (self.layer, None)
        for split, bias_type, layer in product(*axes):
            yield SummaryKey(split, bias_type, layer, self.coeff)


def planned_keys(
    planned: Iterable[PlannedTask], table: str = "steered"
) -> Mapping[str, Counter[SummaryKey]]:
    """By model, the keys of a table's summary, and how many cells each stands for.

    Where a sweep has one split, bias type or layer only, pooling over it would say nothing new.
    """
    cells: dict[str, set[SummaryKey]] = {}
    for task in planned:
        if not task.is_steered or table not in task.tables:
            continue
        place = place_of(task.group)
        cells.setdefault(task.group.model, set()).update(
            SummaryKey(*place, cell.layer, cell.coeff) for cell in task.typed_cells()
        )
    return {model: with_pooled(of_model) for model, of_model in sorted(cells.items())}


def with_pooled(cells: set[SummaryKey]) -> Counter[SummaryKey]:
    """The cells of one model and what they are pooled into, with how many cells each stands for."""
    has_several = [len({cell[axis] for cell in cells}) > 1 for axis in range(3)]
    return Counter(
        key
        for cell in cells
        for key in cell.and_pooled()
        if all(several or key[axis] == cell[axis] for axis, several in enumerate(has_several))
    )


_Row = TypeVar("_Row", bound=Mapping[str, Any])


def is_cell(row: Mapping[str, Any]) -> bool:
    """Whether a row is not pooled."""
    return not any(row[axis] in (POOLED, None) for axis in AXES)


def widest(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    """By model, the rows that are pooled over the most: one per coefficient if all is complete."""
    by_model: dict[str, dict[int, list[_Row]]] = {}
    for row in rows:
        num_pooled = sum(row[axis] in (POOLED, None) for axis in AXES)
        by_model.setdefault(row["model"], {}).setdefault(num_pooled, []).append(row)
    return {model: widths[max(widths)] for model, widths in sorted(by_model.items())}
