"""Sums over the examples of each target term: all that a summary keeps of a sweep's rows.

Shapes: C cells, N examples, K target terms, E columns of ``metrics.SUMS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jobs.stereoset.scored_rows import CellKey, ScoredRows, SteeredRows
from jobs.stereoset.summary_keys import POOLED, SummaryKey
from steering_core.dose_response import gaps_of, monotone_examples
from steering_core.metrics import (
    SUMS,
    TermSums,
    add_divergences,
    example_values,
    sums_by_term,
)


@dataclass(frozen=True)
class LayerDoses:
    """Whether the examples of a group follow the coefficient at one layer.

    Attributes:
        coeffs: of the cells that are complete.
        num_points: coefficients that are compared: 0, without steering, is one of them.
        sums: [K, E] by ``dose_response.DOSE_SUMS``.
    """

    coeffs: frozenset[float]
    num_points: int
    sums: np.ndarray


@dataclass(frozen=True)
class GroupSums:
    """Sums of one group: examples that share steering vectors.

    Attributes:
        terms: target terms [K], sorted.
        cells: the cells [C] whose rows are complete, sorted.
        sums: [K, C, E].
        num_non_finite: [C] rows with a score, or a divergence, that is not finite.
        baseline: [K, 1, E], of the unsteered rows beside themselves.
        num_non_finite_before: of the unsteered rows.
        doses: by layer with two coefficients or more.
    """

    split: str
    bias_type: str
    terms: tuple[str, ...]
    cells: tuple[CellKey, ...]
    sums: np.ndarray
    num_examples: int
    num_non_finite: np.ndarray
    baseline: np.ndarray
    num_non_finite_before: int
    doses: Mapping[int, LayerDoses] = field(default_factory=dict)

    @classmethod
    def of_rows(
        cls,
        split: str,
        bias_type: str,
        shards: Sequence[ScoredRows],
        steered: Iterable[SteeredRows],
    ) -> GroupSums:
        """Add up the rows of a group, which are read once.

        Args:
            shards: all unsteered rows.
            steered: steered ones; a cell that lacks some of the examples is left out.
        """
        terms = sorted({target for rows in shards for target in rows.targets})
        number = {term: index for index, term in enumerate(terms)}
        num_examples = sum(len(rows.targets) for rows in shards)
        sums: dict[CellKey, np.ndarray] = {}
        gaps = _Gaps(shards)
        num_seen: dict[CellKey, int] = {}
        non_finite: dict[CellKey, int] = {}
        for rows in steered:
            before = rows.before
            term_N = np.asarray([number[target] for target in before.targets])
            values_CNE = example_values(before.scores, rows.scores, before.choices, rows.choices)
            measured = rows.scores
            if rows.kl is not None:
                add_divergences(values_CNE, rows.kl.nats, rows.kl.num_tokens)
                measured = np.concatenate([measured, rows.kl.nats[..., None]], axis=-1)
            sums_KCE = sums_by_term(values_CNE, term_N, len(terms))
            lost_C = _num_non_finite(measured)
            gaps.add(rows)
            for index, cell in enumerate(rows.cells):
                held = sums.setdefault(cell, np.zeros((len(terms), len(SUMS))))
                held += sums_KCE[:, index]
                num_seen[cell] = num_seen.get(cell, 0) + len(before.targets)
                non_finite[cell] = non_finite.get(cell, 0) + int(lost_C[index])
        cells = tuple(sorted(cell for cell, num in num_seen.items() if num == num_examples))
        baseline = np.zeros((len(terms), 1, len(SUMS)))
        for before in shards:
            term_N = np.asarray([number[target] for target in before.targets])
            same = before.scores[None], before.choices, before.choices[None]
            baseline += sums_by_term(example_values(before.scores, *same), term_N, len(terms))
        whole = [sums[cell] for cell in cells]
        return cls(
            split=split,
            bias_type=bias_type,
            terms=tuple(terms),
            cells=cells,
            sums=np.stack(whole, axis=1) if whole else np.zeros((len(terms), 0, len(SUMS))),
            num_examples=num_examples,
            num_non_finite=np.asarray([non_finite[cell] for cell in cells], int),
            baseline=baseline,
            num_non_finite_before=sum(int(_num_non_finite(rows.scores)) for rows in shards),
            doses=gaps.doses(cells, [number[term] for rows in shards for term in rows.targets]),
        )


class _Gaps:
    """Gaps of a group's examples in each cell: the one thing that is kept by example.

    An example's cells may come in different parts, and whether its gap follows the coefficient is
    known only when all are there. For one group, that is 8 bytes for each row.
    """

    def __init__(self, shards: Sequence[ScoredRows]) -> None:
        self._start, self._num = {}, 0
        for rows in shards:
            self._start[id(rows)] = self._num
            self._num += len(rows.targets)
        unsteered = [gaps_of(rows.scores) for rows in shards]
        self._unsteered_N = np.concatenate(unsteered) if unsteered else np.zeros(0)
        self._of_cells: dict[CellKey, np.ndarray] = {}

    def add(self, rows: SteeredRows) -> None:
        """Keep the gaps of a part."""
        start = self._start[id(rows.before)]
        for cell, gaps in zip(rows.cells, gaps_of(rows.scores), strict=True):
            of_cell_N = self._of_cells.setdefault(cell, np.full(self._num, np.nan))
            of_cell_N[start : start + len(gaps)] = gaps

    def doses(self, cells: Sequence[CellKey], term_N: Sequence[int]) -> dict[int, LayerDoses]:
        """By layer, over its complete cells; none for a layer with a single one."""
        coeffs: dict[int, list[float]] = {}
        for layer, coeff in cells:
            coeffs.setdefault(layer, []).append(coeff)
        num_terms = max(term_N, default=-1) + 1
        return {
            layer: self._of_layer(layer, of_layer, np.asarray(term_N), num_terms)
            for layer, of_layer in coeffs.items()
            if len(of_layer) > 1
        }

    def _of_layer(
        self, layer: int, coeffs: Sequence[float], term_N: np.ndarray, num_terms: int
    ) -> LayerDoses:
        points = {coeff: self._of_cells[layer, coeff] for coeff in coeffs}
        points.setdefault(0.0, self._unsteered_N)
        values_NE = monotone_examples(list(points), np.stack(list(points.values())))
        sums_KE = sums_by_term(values_NE[None], term_N, num_terms)[:, 0]
        return LayerDoses(frozenset(coeffs), len(points), sums_KE)


def _num_non_finite(scores: np.ndarray) -> np.ndarray:
    """Rows [...] with a number that is not finite, of scores [..., N, 3], or more numbers."""
    num: np.ndarray = (~np.isfinite(scores)).any(axis=-1).sum(axis=-1)
    return num


@dataclass(frozen=True)
class Pooled:
    """Sums of cells, each pooled over the same splits, bias types or layers.

    Attributes:
        cells: layer and coefficient of each [C]; the layer is None if all are pooled.
        by_bias_type: sums [K, C, E] of each bias type; terms of several splits are the same terms.
        num_cells: [C] cells of groups that each is made of; fewer than planned if some are not
            there yet.
        num_examples: once, however many layers there are.
        num_non_finite: [C].
        repeats: layers that are pooled: how often each example is in the sums.
    """

    cells: tuple[tuple[int | None, float], ...]
    by_bias_type: Mapping[str, TermSums]
    num_cells: np.ndarray
    num_examples: int
    num_non_finite: np.ndarray
    repeats: int

    @property
    def num_terms(self) -> int:
        """Target terms, of all bias types."""
        return sum(len(sums.terms) for sums in self.by_bias_type.values())

    def is_complete(self, key: SummaryKey, planned: Mapping[SummaryKey, int]) -> bool:
        """Whether every planned cell of a row is in the sums."""
        index = self.cells.index((key.layer, key.coeff))
        return bool(self.num_cells[index] == planned.get(key))

    @property
    def coeffs(self) -> np.ndarray:
        """[C]."""
        return np.asarray([coeff for _, coeff in self.cells])


def pooled(
    groups: Sequence[GroupSums], split: str, bias_type: str, *, over_layers: bool
) -> Pooled | None:
    """The cells of some groups, added up; None if there is no such group.

    Args:
        split, bias_type: a name, or ``POOLED`` for all of them.
    """
    chosen = [
        group
        for group in groups
        if split in (group.split, POOLED) and bias_type in (group.bias_type, POOLED)
    ]
    if not chosen:
        return None

    def key(cell: CellKey) -> tuple[int | None, float]:
        return (None if over_layers else cell[0]), cell[1]

    cells = sorted({key(cell) for group in chosen for cell in group.cells}, key=_order)
    column = {cell: index for index, cell in enumerate(cells)}
    names: dict[str, list[str]] = {}
    for group in chosen:
        names.setdefault(group.bias_type, []).extend(group.terms)
    terms = {name: tuple(sorted(set(found))) for name, found in names.items()}
    sums = {name: np.zeros((len(found), len(cells), len(SUMS))) for name, found in terms.items()}
    num_cells, num_non_finite = (np.zeros(len(cells), int) for _ in range(2))
    for group in chosen:
        at = [column[key(cell)] for cell in group.cells]
        row = [terms[group.bias_type].index(term) for term in group.terms]
        np.add.at(sums[group.bias_type], np.ix_(row, at), group.sums)
        np.add.at(num_cells, at, 1)
        np.add.at(num_non_finite, at, group.num_non_finite)
    layers = {layer for group in chosen for layer, _ in group.cells}
    return Pooled(
        cells=tuple(cells),
        by_bias_type={name: TermSums(terms[name], sums[name]) for name in sorted(terms)},
        num_cells=num_cells,
        num_examples=sum(group.num_examples for group in chosen),
        num_non_finite=num_non_finite,
        repeats=max(1, len(layers)) if over_layers else 1,
    )


def _order(cell: tuple[int | None, float]) -> tuple[int, float]:
    return cell[0] or 0, cell[1]
