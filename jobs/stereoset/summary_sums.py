"""Sums over examples and over target terms, of all of them and of each bootstrap resample.

Shapes: B resamples, E sums over examples (``metrics.EXAMPLE_SUMS``), T target terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Self

import numpy as np

from jobs.stereoset.scored_rows import GroupRows, ScoredRows
from jobs.stereoset.summary_keys import POOLED, SummaryKey
from steering_core.metrics import example_sums, term_counts, term_sums
from steering_core.resampling import resample_counts


@dataclass(frozen=True)
class CellSums:
    """Sums over examples: whole [E], drawn [B, E]; and how many cells are pooled in them."""

    whole: np.ndarray
    drawn: np.ndarray
    num_non_finite: int
    num_cells: int = 1

    def __add__(self, other: CellSums) -> CellSums:
        return CellSums(
            self.whole + other.whole,
            self.drawn + other.drawn,
            self.num_non_finite + other.num_non_finite,
            self.num_cells + other.num_cells,
        )


@dataclass(frozen=True)
class TermSums:
    """StereoSet's sums over target terms: whole [3], drawn [B, 3]."""

    whole: np.ndarray
    drawn: np.ndarray

    @classmethod
    def of(cls, counts_T3: np.ndarray, drawn_BT: np.ndarray) -> Self:
        """Of counts by term (``metrics.term_counts``), and how often each term was drawn."""
        sums_T3 = term_sums(counts_T3)
        return cls(sums_T3.sum(axis=0), drawn_BT @ sums_T3)

    def __add__(self, other: TermSums) -> TermSums:
        return TermSums(self.whole + other.whole, self.drawn + other.drawn)


class ModelSums:
    """Everything that one model's rows of a summary are made of."""

    def __init__(self) -> None:
        self._cells: dict[SummaryKey, CellSums] = {}
        self._terms: dict[str, _Terms] = {}
        self._num_examples: dict[tuple[str, str], int] = {}

    def take_in(self, rows: GroupRows) -> None:
        """Add the cells of a group, and what they are pooled into."""
        before, (split, bias_type) = rows.before, (rows.group.split, rows.group.bias_type)
        self._num_examples[split, bias_type] = len(before.example_ids)
        drawn_BN = examples_drawn(rows)
        terms = self._terms.setdefault(bias_type, _Terms(bias_type))
        for (layer, coeff), after in rows.after.items():
            sums_NE = example_sums(before.scores, after.scores, before.choices, after.choices)
            cell = CellSums(
                whole=sums_NE.sum(axis=0),
                drawn=drawn_BN @ sums_NE,
                num_non_finite=after.num_non_finite,
            )
            of_cell = SummaryKey(split, bias_type, layer, coeff)
            for key in of_cell.and_pooled():
                held = self._cells.get(key)
                self._cells[key] = cell if held is None else held + cell
            terms.take_in(of_cell, before, after)

    def cell(self, key: SummaryKey) -> CellSums | None:
        """Sums over examples; None where nothing is there."""
        return self._cells.get(key)

    def num_examples(self, key: SummaryKey) -> int:
        """Examples of the groups that are pooled; once, however many layers there are."""
        return sum(
            num
            for (split, bias_type), num in self._num_examples.items()
            if key.split in (split, POOLED) and key.bias_type in (bias_type, POOLED)
        )

    def terms(self, key: SummaryKey) -> tuple[TermSums, TermSums]:
        """Sums over terms, before and after; a term counts once, whatever it is pooled over."""
        found = [
            terms.sums(key)
            for bias_type, terms in sorted(self._terms.items())
            if key.bias_type in (bias_type, POOLED)
        ]
        before, after = zip(*found, strict=True)
        return reduce(add, before), reduce(add, after)


def examples_drawn(rows: GroupRows) -> np.ndarray:
    """How often each example of a group is in each resample [B, N]: the same for every model."""
    seed = f"examples of {rows.group.split}/{rows.group.bias_type}"
    return resample_counts(len(rows.before.example_ids), seed)


def terms_drawn(num_terms: int, bias_type: str) -> np.ndarray:
    """How often each target term of a bias type is in each resample [B, T]."""
    return resample_counts(num_terms, f"terms of {bias_type}")


class _Terms:
    """Counts of a bias type's target terms, by cell."""

    def __init__(self, bias_type: str) -> None:
        self._bias_type = bias_type
        self._number: dict[str, int] = {}
        self._counts: dict[SummaryKey, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._drawn_BT: np.ndarray | None = None

    def take_in(self, cell: SummaryKey, before: ScoredRows, after: ScoredRows) -> None:
        names, term_N = np.unique(before.targets, return_inverse=True)
        number_T = np.asarray([self._number.setdefault(n, len(self._number)) for n in names])
        before_T3, after_T3 = (
            term_counts(rows.scores, term_N, len(names)) for rows in (before, after)
        )
        self._counts[cell] = number_T, before_T3, after_T3

    def sums(self, key: SummaryKey) -> tuple[TermSums, TermSums]:
        """Before and after, of all cells that the key stands for."""
        if self._drawn_BT is None or self._drawn_BT.shape[1] != len(self._number):
            self._drawn_BT = terms_drawn(len(self._number), self._bias_type)
        before_T3, after_T3 = np.zeros((2, len(self._number), 3))
        for cell, (number_T, of_before, of_after) in self._counts.items():
            if key in cell._replace(bias_type=key.bias_type).and_pooled():
                before_T3[number_T] += of_before
                after_T3[number_T] += of_after
        drawn_BT = self._drawn_BT
        return TermSums.of(before_T3, drawn_BT), TermSums.of(after_T3, drawn_BT)
