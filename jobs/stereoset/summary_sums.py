"""Sums over the examples of each target term: all that a summary keeps of a sweep's rows.

Shapes: C cells, N examples, K target terms, E columns of ``metrics.SUMS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.stereoset.scored_rows import CellKey, ScoredRows, SteeredRows
from jobs.stereoset.summary_keys import POOLED, SummaryKey
from steering_core.metrics import (
    SUMS,
    TermSums,
    add_divergences,
    example_values,
    sums_by_term,
)


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
        )


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
