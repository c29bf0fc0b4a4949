"""Rows of the summary's tables, made of sums: estimates, intervals, tests, the headline.

Nothing here reads storage, so that ``steersweep.summarize`` makes the same rows from frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.stereoset.summary_keys import SummaryKey, widest
from jobs.stereoset.summary_sums import GroupSums, Pooled, pooled
from jobs.stereoset.summary_tables import FEW_TERMS, HEADLINE_ESTIMATES, SHARES
from steering_core.metrics import (
    CellEstimates,
    TermSums,
    cell_estimates,
)
from steering_core.quantities import (
    CHANGES,
    NET_FLOWS,
    STEREOSET_ESTIMATES,
    TESTED,
    cell_quantities,
)
from steering_core.stats.clusters import ClusterEstimate, combine, side_by_side
from steering_core.stats.flips import refined_p_values, signs, simultaneous
from steering_core.stats.ranks import add_q_values

_KEYS = ("split", "bias_type", "layer", "coeff")

Row = dict[str, Any]
_Stack = tuple[str, str, bool]
"""Split and bias type, each a name or ``POOLED``, and whether layers are pooled."""


@dataclass(frozen=True)
class ModelEstimates:
    """The rows of one model for each of the tables, and what they were made of."""

    cells: list[Row]
    pooled: list[Row]
    headline: list[Row]
    findings: list[Row]
    stacks: Stacks


class Stacks:
    """Sums and estimates of the cells that are pooled alike, each made once."""

    def __init__(self, groups: Sequence[GroupSums]) -> None:
        self._groups = groups
        self._made: dict[_Stack, tuple[Pooled, CellEstimates] | None] = {}

    def get(self, stack: _Stack) -> tuple[Pooled, CellEstimates] | None:
        """Those of a stack; None if none of its cells is there."""
        if stack not in self._made:
            split, bias_type, over_layers = stack
            sums = pooled(self._groups, split, bias_type, over_layers=over_layers)
            self._made[stack] = (
                (sums, cell_estimates(sums.by_bias_type, sums.coeffs, sums.repeats))
                if sums is not None and sums.cells
                else None
            )
        return self._made[stack]


def model_estimates(
    groups: Sequence[GroupSums],
    planned: Mapping[SummaryKey, int],
    *,
    vectors: str,
    has_direction: bool = True,
    is_tested: bool = True,
) -> ModelEstimates:
    """The rows of a model whose cells are all there.

    Args:
        planned: what there is to be a row for, and how many cells each stands for.
        vectors: what steered: ``in_sample``, ``held_out`` or ``file``.
        has_direction: whether a positive coefficient adds the vector; else no example can have
            moved against it.
        is_tested: False leaves out p- and q-values and findings, which take most of the time. Of
            many draws of a null only the first is tested: what counts are their ranks.
    """
    cells: list[Row] = []
    pooled_rows: list[Row] = []
    stacks = Stacks(groups)
    for stack in sorted({(key.split, key.bias_type, key.layer is None) for key in planned}):
        if (found := stacks.get(stack)) is None:
            continue
        rows = _rows(*found, *stack[:2], planned, has_direction=has_direction, is_tested=is_tested)
        for row in rows:
            key = SummaryKey(*stack[:2], row["layer"], row["coeff"])
            (cells if key.is_cell else pooled_rows).append(row)
    for made in (cells, pooled_rows):
        add_q_values(made, TESTED)
        made.sort(key=lambda row: (row["split"], row["bias_type"], row["layer"] or 0, row["coeff"]))
    return ModelEstimates(
        cells,
        pooled_rows,
        _headline(stacks, groups, planned, vectors),
        _findings(stacks, cells, pooled_rows) if is_tested else [],
        stacks,
    )


def _rows(
    sums: Pooled,
    found: CellEstimates,
    split: str,
    bias_type: str,
    planned: Mapping[SummaryKey, int],
    *,
    has_direction: bool,
    is_tested: bool,
) -> list[Row]:
    columns = _columns(found, cell_quantities())
    if not has_direction:
        nothing = np.full(len(sums.cells), np.nan)
        columns |= dict.fromkeys(("anti_steered", "anti_steered_low", "anti_steered_high"), nothing)
    p_of_cells = (
        refined_p_values(found.tested)
        if is_tested
        else np.full((len(sums.cells), len(TESTED)), np.nan)
    )
    columns |= {f"{name}_p": p_of_cells[:, index] for index, name in enumerate(TESTED)}
    columns["icc_s2a"] = found.icc_s2a
    rows = []
    for index, (layer, coeff) in enumerate(sums.cells):
        if not sums.is_complete(SummaryKey(split, bias_type, layer, coeff), planned):
            continue
        rows.append(
            {
                "split": split,
                "bias_type": bias_type,
                "layer": layer,
                "coeff": coeff,
                "num_examples": sums.num_examples,
                "num_terms": sums.num_terms,
                "num_non_finite": int(sums.num_non_finite[index]),
                "few_terms": sums.num_terms < FEW_TERMS,
                **{name: _defined(values[index]) for name, values in columns.items()},
            }
        )
    return rows


def _columns(found: CellEstimates, names: Sequence[str]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name in names:
        low, high = found.intervals[name]
        columns |= {name: found.value(name), f"{name}_low": low, f"{name}_high": high}
    return columns


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _finite(value: float) -> float | None:
    """None, too, where hardly any term moved, so that an interval has no end."""
    return float(value) if np.isfinite(value) else None


def _findings(stacks: Stacks, cells: Sequence[Row], pooled_rows: Sequence[Row]) -> list[Row]:
    """Simultaneous statements about everything that a finding may choose from.

    That is the widest rows (one for each coefficient, if the run is complete) times ``TESTED``.
    """
    named = [{"model": "", **row} for row in (*pooled_rows, *cells) if row["coeff"] != 0]
    rows = widest(named).get("", [])
    parts = []
    for row in rows:
        found = stacks.get((row["split"], row["bias_type"], row["layer"] is None))
        assert found is not None, "a row of no sums"
        sums, estimates = found
        parts.append(estimates.tested[sums.cells.index((row["layer"], row["coeff"]))])
    if not parts:
        return []
    family = side_by_side(parts)
    statements = simultaneous(family, signs(len(family.clusters)))
    columns = [family.value, statements.low, statements.high, statements.p]
    return [
        {
            **{key: rows[index // len(TESTED)][key] for key in _KEYS},
            "estimate": TESTED[index % len(TESTED)],
            **dict(zip(("value", "low", "high", "p"), map(_finite, numbers), strict=True)),
        }
        for index, numbers in enumerate(zip(*columns, strict=True))
    ]


def _headline(
    stacks: Stacks, groups: Sequence[GroupSums], planned: Mapping[SummaryKey, int], vectors: str
) -> list[Row]:
    """What the paper's notebook prints and draws: a row per split and coefficient.

    Means over layers within a bias type, then over bias types, each with the same weight.
    ``anti_rise_percent`` is 100 times the same mean of ``anti_ratio`` - 1; null if a ratio is
    undefined. Only where every cell is complete.
    """
    wanted: dict[tuple[str, float], set[SummaryKey]] = {}
    for key in planned:
        if key.is_cell:
            wanted.setdefault((key.split, key.coeff), set()).add(key)
    rows = []
    for (split, coeff), keys in sorted(wanted.items()):
        there = {
            SummaryKey(split, group.bias_type, *cell)
            for group in groups
            if group.split == split
            for cell in group.cells
        }
        if keys <= there:
            bias_types = sorted({key.bias_type for key in keys})
            found = [stacks.get((split, bias_type, False)) for bias_type in bias_types]
            averages = _macro_average([one for one in found if one is not None], coeff)
            rows.append({"split": split, "coeff": coeff, "vectors": vectors, **averages})
    return rows


def _macro_average(groups: Sequence[tuple[Pooled, CellEstimates]], coeff: float) -> Row:
    """The numbers of one row of the headline, from all cells of each bias type."""
    means: list[ClusterEstimate] = []
    num_undefined, layers = 0, set()
    for sums, found in groups:
        at = [index for index, (_, c) in enumerate(sums.cells) if c == coeff]
        layers |= {sums.cells[index][0] for index in at}
        ratio = found.value("anti_ratio")[at]
        num_undefined += int(np.isnan(ratio).sum())
        log = found.estimates["anti_ratio"][at]
        # A ratio of 0 is defined and has no logarithm: there is a value then, and no interval.
        rise = ClusterEstimate(100 * (ratio - 1), 100 * ratio * log.influence, log.clusters)
        columns = [*(found.estimates[name][at] for name in (*NET_FLOWS, *CHANGES)), rise]
        of_layers = side_by_side([column[:, None] for column in columns])
        means.append(combine([1 / len(at)] * len(at), [of_layers[i] for i in range(len(at))]))
    whole = combine([1 / len(means)] * len(means), means)
    # Where no term moved, nothing shows how far an average could have been from what it is.
    low, high = (np.where(whole.standard_error > 0, end, np.nan) for end in whole.interval())
    for end in (low, high):
        end[: len(NET_FLOWS)] = np.clip(end[: len(NET_FLOWS)], -1.0, 1.0)
        end[-1] = max(end[-1], -100.0)  # no ratio is negative
    row: Row = {
        "num_bias_types": len(groups),
        "num_layers": len(layers),
        "num_undefined": num_undefined,
    }
    for index, name in enumerate(HEADLINE_ESTIMATES):
        ends = (("", whole.value), ("_low", low), ("_high", high))
        row |= {f"{name}{end}": _defined(number[index]) for end, number in ends}
    return row


def baseline_row(group: GroupSums) -> Row:
    """Scores and choices before steering, with intervals."""
    terms = {group.bias_type: TermSums(group.terms, group.baseline)}
    found = cell_estimates(terms, np.zeros(1))
    columns = _columns(found, STEREOSET_ESTIMATES)
    for name, label in zip(SHARES, "sau", strict=True):
        low, high = found.intervals[f"flow_{label}_{label}"]
        columns |= {
            name: found.value(f"flow_{label}_{label}"),
            f"{name}_low": low,
            f"{name}_high": high,
        }
    return {
        "split": group.split,
        "bias_type": group.bias_type,
        "num_examples": group.num_examples,
        "num_terms": len(group.terms),
        "num_non_finite": group.num_non_finite_before,
        **{name: _defined(values[0]) for name, values in columns.items()},
    }
