"""What the rows of a choices sweep come to: tables of estimates with intervals and tests.

Nothing here reads storage: rows come in, tables go out. ``docs/statistics.md`` explains the
methods; ``summary_tables`` has the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.choices.summary_tables import (
    CELL_KEYS,
    FINDINGS_SCHEMA,
    NULL_TESTS_SCHEMA,
    NULLS_SCHEMA,
    baseline_schema,
    cells_schema,
    columns_of_estimates,
    groups_schema,
    held_out_schema,
    metrics_table,
    table,
    tested_columns,
)
from jobs.estimates.cells import (
    MOST_FLIPPED,
    Estimates,
    columns_of,
    defined,
    estimates_of,
    mean_over_layers,
    p_of_change,
)
from jobs.estimates.gap import GAP, gap_metric, gap_of_examples
from jobs.estimates.parts import groups_of
from jobs.estimates.sums import CellSums, Unsteered, pooled
from steering_core.datasets.base import Contrast, Metric, ScoredChoices
from steering_core.nulls import draw_seed, label_signs
from steering_core.stats.clusters import combine, side_by_side
from steering_core.stats.flips import refined_p_values, signs, simultaneous
from steering_core.stats.ranks import add_q_values, null_tests

Row = dict[str, Any]
Cell = tuple[int, float, float | None, ScoredChoices, np.ndarray | None]
"""Layer, coefficient, dose, the steered rows, and their mean divergences [N] if measured."""


@dataclass(frozen=True)
class FitRows:
    """Rows that are steered with one set of vectors, of one model and one fit.

    Attributes:
        fit: ``all``, or the values of ``contrast.by`` joined.
        vectors: ``in_sample``, ``held_out`` or ``file``; of draws: those they stand for.
        null: ``random`` or ``shuffled``; empty: the vectors of the sweep.
        draw: of the null.
        baseline: unsteered, all examples of the fit.
        cells: steered rows of the same examples in the same order. They are read once.
    """

    model: str
    fit: str
    vectors: str
    null: str
    draw: int
    baseline: ScoredChoices
    cells: Iterable[Cell]


def summarise(
    sets: Iterable[FitRows],
    metrics: Sequence[Metric],
    contrast: Contrast | None,
    *,
    seed: int = 0,
    has_direction: bool = True,
) -> dict[str, pa.Table]:
    """The tables of a summary by name; each has its columns even if it has no rows.

    Args:
        seed: the sweep's, which the labels of shuffled draws follow from.
        has_direction: whether a positive coefficient adds the vector, so that it is meant to raise
            the gap. Vectors from a file are never taken to intend anything.
    """
    measured = [*([gap_metric(contrast)] if contrast else []), *metrics]
    assert len({metric.key for metric in measured}) == len(measured), "two metrics of one name"
    collected = _Collected(measured, contrast, seed, has_direction=has_direction)
    for rows in sets:
        collected.take(rows)
    return collected.tables()


@dataclass(frozen=True)
class _Place:
    """What a row of estimates is about."""

    model: str
    vectors: str
    fit: str | None
    layer: int | None
    coeff: float

    @property
    def keys(self) -> Row:
        return {name: getattr(self, name) for name in CELL_KEYS}


@dataclass(frozen=True)
class _Counted:
    """The estimates of a row, and what they are of."""

    estimates: Estimates
    num_examples: int
    num_clusters: int
    num_non_finite: int
    dose: float | None
    num_terms: Mapping[str, int]


@dataclass
class _Collected:
    """What has been read of the rows so far."""

    metrics: Sequence[Metric]
    contrast: Contrast | None
    seed: int
    has_direction: bool = field(kw_only=True)
    baselines: dict[tuple[str, str], Unsteered] = field(default_factory=dict)
    cells: dict[_Place, tuple[CellSums, float | None]] = field(default_factory=dict)
    groups: list[Row] = field(default_factory=list)
    draws: dict[tuple[str, int, _Place], tuple[float, int]] = field(default_factory=dict)

    def take(self, rows: FitRows) -> None:
        """Read the rows of one set of vectors."""
        if rows.null:
            self._take_draw(rows)
            return
        before = Unsteered.of(rows.baseline, self.metrics)
        self.baselines.setdefault((rows.model, rows.fit), before)
        groups = groups_of(rows.baseline)
        for layer, coeff, dose, steered, kl in rows.cells:
            place = _Place(rows.model, rows.vectors, rows.fit, layer, coeff)
            compared = before.compared(steered, kl)
            self.cells[place] = compared.sums(), dose
            for (key, value), is_in in groups.items():
                found = self._counted(compared.sums(is_in), place)
                of_group = {"group_key": key, "group_value": value, "vectors": place.vectors}
                self.groups.append({**place.keys, **of_group, **self._columns(found)})

    def _take_draw(self, rows: FitRows) -> None:
        if self.contrast is None:
            return
        sign = np.ones(len(rows.baseline.examples))
        if rows.null == "shuffled":
            ids = [example.example_id for example in rows.baseline.examples]
            sign = label_signs(ids, draw_seed("shuffled", self.seed, rows.draw))
        before = gap_of_examples(rows.baseline, self.contrast)
        for layer, coeff, _, steered, _ in rows.cells:
            change = sign * (gap_of_examples(steered, self.contrast) - before)
            there = np.isfinite(change)
            place = _Place(rows.model, rows.vectors, rows.fit, layer, coeff)
            total = float(change[there].sum()), int(there.sum())
            self.draws[rows.null, rows.draw, place] = total

    def tables(self) -> dict[str, pa.Table]:
        """All tables of what has been read."""
        main, held_out = self._by_vectors()
        cells = {
            place: self._counted(sums, place, dose) for place, (sums, dose) in self.cells.items()
        }
        wide = self._pooled(cells)
        every = cells | wide
        rows = {place: self._row(place, found) for place, found in every.items()}
        excess = [row | _excess(place, cells) for place, row in rows.items() if place in cells]
        of_main, of_held_out, of_wide = (
            [row for place, row in rows.items() if place in cells and row["vectors"] == main],
            [row for row in excess if held_out and row["vectors"] == "held_out"],
            [row for place, row in rows.items() if place in wide],
        )
        for of_table in (of_main, of_held_out, of_wide):
            add_q_values(of_table, tested_columns(self.metrics))
        nulls = list(self._null_rows())
        shown = "held_out" if held_out else main
        return {
            "baseline": table(self._baseline_rows(), baseline_schema(self.metrics)),
            "cells": table(of_main, cells_schema(self.metrics)),
            "pooled": table(of_wide, cells_schema(self.metrics)),
            "held_out": table(of_held_out, held_out_schema(self.metrics)),
            "groups": table(self.groups, groups_schema(self.metrics)),
            "nulls": table(nulls, NULLS_SCHEMA),
            "null_tests": table(self._null_tests(rows.values(), nulls), NULL_TESTS_SCHEMA),
            "findings": table(self._findings(every, shown), FINDINGS_SCHEMA),
            "metrics": metrics_table(self.metrics),
        }

    def _by_vectors(self) -> tuple[str, bool]:
        """The vectors of ``cells``, and whether held-out ones come in addition."""
        vectors = dict.fromkeys(place.vectors for place in self.cells)
        main = next((name for name in vectors if name != "held_out"), "held_out")
        return main, main != "held_out" and "held_out" in vectors

    def _has_intent(self, vectors: str) -> bool:
        return self.has_direction and self.contrast is not None and vectors != "file"

    # -- estimates ------------------------------------------------------------------------------

    def _counted(self, sums: CellSums, place: _Place, dose: float | None = None) -> _Counted:
        coeff = place.coeff if self._has_intent(place.vectors) else None
        return _Counted(
            estimates_of(sums, self.metrics, gap=GAP, coeff=coeff),
            sums.num_examples,
            len(sums.clusters),
            sums.num_non_finite,
            dose,
            sums.num_terms,
        )

    def _pooled(self, cells: dict[_Place, _Counted]) -> dict[_Place, _Counted]:
        """Cells over all fits and over layers, where every part is there."""
        found: dict[_Place, _Counted] = {}
        parts: dict[_Place, list[_Place]] = {}
        for place in self.cells:
            whole = _Place(place.model, place.vectors, None, place.layer, place.coeff)
            parts.setdefault(whole, []).append(place)
        for whole, of_fits in parts.items():
            num_fits = len({p.fit for p in self.cells if _same(p, whole)})
            if num_fits > 1 and len(of_fits) == num_fits:
                sums = pooled([self.cells[place][0] for place in of_fits])
                dose = _mean([self.cells[place][1] for place in of_fits])
                found[whole] = self._counted(sums, whole, dose)
        return found | _over_layers(cells | found)

    def _row(self, place: _Place, found: _Counted) -> Row:
        tests = {}
        for metric in self.metrics:
            change = found.estimates[f"{metric.key}_change"].estimate
            num_terms = found.num_terms[metric.key]
            is_known = np.isfinite(change.value[0])
            p = p_of_change(metric, change, num_terms) if is_known else None
            tests[f"{metric.key}_change_p"] = defined(p)
        about = {"vectors": place.vectors, "dose": found.dose}
        return {**place.keys, **about, **self._columns(found), **tests}

    def _columns(self, found: _Counted) -> Row:
        counts = ("num_examples", "num_clusters", "num_non_finite")
        return {
            **{name: getattr(found, name) for name in counts},
            **columns_of(found.estimates, columns_of_estimates(self.metrics)),
        }

    def _baseline_rows(self) -> Iterator[Row]:
        by_model: dict[str, list[CellSums]] = {}
        names = [metric.key for metric in self.metrics]
        for (model, fit), before in self.baselines.items():
            alone = before.alone
            by_model.setdefault(model, []).append(alone.sums())
            whole = {("", ""): np.ones(len(before.scored.examples), bool)}
            for (key, value), is_in in (whole | groups_of(before.scored)).items():
                about = {"model": model, "fit": fit, "group_key": key, "group_value": value}
                yield about | self._unsteered(alone.sums(is_in), names)
        for model, sums in by_model.items():
            if len(sums) > 1:
                about = {"model": model, "fit": None, "group_key": "", "group_value": ""}
                yield about | self._unsteered(pooled(sums), names)

    def _unsteered(self, sums: CellSums, names: Sequence[str]) -> Row:
        found = estimates_of(sums, self.metrics, gap=None, coeff=None)
        counts = {"num_examples": sums.num_examples, "num_clusters": len(sums.clusters)}
        return {**counts, "num_non_finite": sums.num_non_finite, **columns_of(found, names)}

    # -- draws of nulls -------------------------------------------------------------------------

    def _null_rows(self) -> Iterator[Row]:
        """The mean change of each draw, pooled as the fitted vectors are."""
        totals: dict[tuple[str, int], dict[_Place, tuple[float, int]]] = {}
        for (null, draw, place), total in self.draws.items():
            totals.setdefault((null, draw), {})[place] = total
        for (null, draw), of_draw in totals.items():
            values = {place: total / num for place, (total, num) in of_draw.items() if num}
            values |= _draw_over_fits(of_draw)
            values |= _draw_over_layers(values)
            for place, value in values.items():
                about = {"null": null, "vectors": place.vectors, "draw": draw}
                yield {**place.keys, **about, "gap_change": value}

    def _null_tests(self, rows: Iterable[Row], nulls: Sequence[Row]) -> Iterator[Row]:
        by_vectors: dict[str, list[Row]] = {}
        for row in rows if self.contrast else ():
            by_vectors.setdefault(row["vectors"], []).append(row)
        for vectors, fitted in by_vectors.items():
            yield from null_tests(
                {vectors: fitted},
                nulls,
                keys=CELL_KEYS,
                estimates=["gap_change"],
                has_intent=self._has_intent(vectors),
            )

    # -- simultaneous statements ----------------------------------------------------------------

    def _findings(self, every: Mapping[_Place, _Counted], vectors: str) -> Iterator[Row]:
        for model in dict.fromkeys(place.model for place in every):
            mine = {
                p: found for p, found in every.items() if (p.model, p.vectors) == (model, vectors)
            }
            widest = [place for place in mine if place.coeff and _is_over_fits(place, mine)]
            over_layers = [p for p in widest if p.layer is None] or widest
            side = [metric.key for metric in self.metrics if metric.key != GAP]
            of_gap = [(place, GAP) for place in widest if self.contrast]
            of_metrics = [(place, name) for place in over_layers for name in side]
            for family, members in (("gap", of_gap), ("metrics", of_metrics)):
                yield from self._family(family, members, mine)

    def _family(
        self,
        family: str,
        members: Sequence[tuple[_Place, str]],
        found: Mapping[_Place, _Counted],
    ) -> Iterator[Row]:
        if not members:
            return
        changes = [found[place].estimates[f"{name}_change"].estimate for place, name in members]
        together = side_by_side(changes).merged(MOST_FLIPPED)
        statements = simultaneous(together, signs(len(together.clusters)))
        columns = (together.value, statements.low, statements.high, statements.p)
        for (place, name), numbers in zip(members, zip(*columns, strict=True), strict=True):
            value, low, high, p = map(defined, numbers)
            has_intent = name == GAP and self._has_intent(place.vectors)
            is_intended = value * place.coeff > 0 if has_intent and value is not None else None
            about: Row = {"model": place.model, "vectors": place.vectors, "family": family}
            about |= {"metric": name, "layer": place.layer, "coeff": place.coeff}
            yield (
                about
                | {"value": value, "low": low, "high": high, "p": p}
                | {"is_intended": is_intended}
            )


def _same(place: _Place, other: _Place) -> bool:
    return (place.model, place.vectors) == (other.model, other.vectors)


def _is_over_fits(place: _Place, found: Mapping[_Place, _Counted]) -> bool:
    """Whether a row is over all fits of its model, which may have one alone."""
    return place.fit is None or len({of.fit for of in found}) == 1


def _over_layers(found: Mapping[_Place, _Counted]) -> dict[_Place, _Counted]:
    """Means over layers of every coefficient that all layers have."""
    layers: dict[_Place, list[_Place]] = {}
    for place in found:
        whole = _Place(place.model, place.vectors, place.fit, None, place.coeff)
        layers.setdefault(whole, []).append(place)
    means = {}
    for whole, of_layers in layers.items():
        num_layers = len({p.layer for p in found if _same(p, whole)})
        if num_layers > 1 and len(of_layers) == num_layers:
            parts = [found[place] for place in of_layers]
            means[whole] = _Counted(
                mean_over_layers([part.estimates for part in parts]),
                parts[0].num_examples,
                parts[0].num_clusters,
                sum(part.num_non_finite for part in parts),
                _mean([part.dose for part in parts]),
                parts[0].num_terms,
            )
    return means


def _draw_over_fits(of_draw: Mapping[_Place, tuple[float, int]]) -> dict[_Place, float]:
    """Means over the examples of all fits, where every fit is there."""
    totals: dict[_Place, list[tuple[float, int]]] = {}
    for place, total in of_draw.items():
        whole = _Place(place.model, place.vectors, None, place.layer, place.coeff)
        totals.setdefault(whole, []).append(total)
    return {
        whole: sum(total for total, _ in of_fits) / sum(num for _, num in of_fits)
        for whole, of_fits in totals.items()
        if 1 < len(of_fits) == len({p.fit for p in of_draw if _same(p, whole)})
        if sum(num for _, num in of_fits)
    }


def _draw_over_layers(values: Mapping[_Place, float]) -> dict[_Place, float]:
    layers: dict[_Place, list[float]] = {}
    for place, value in values.items():
        whole = _Place(place.model, place.vectors, place.fit, None, place.coeff)
        layers.setdefault(whole, []).append(value)
    return {
        whole: float(np.mean(of_layers))
        for whole, of_layers in layers.items()
        if 1 < len(of_layers) == len({p.layer for p in values if _same(p, whole)})
    }


def _excess(place: _Place, cells: Mapping[_Place, _Counted]) -> Row:
    """How much more of the gap in-sample vectors move at the same place, paired by cluster."""
    names = [f"in_sample_excess{end}" for end in ("", "_low", "_high", "_p")]
    other = _Place(place.model, "in_sample", place.fit, place.layer, place.coeff)
    held_out, in_sample = cells[place], cells.get(other)
    if in_sample is None or "gap_change" not in held_out.estimates:
        return dict.fromkeys(names)
    changes = [of.estimates["gap_change"].estimate for of in (in_sample, held_out)]
    difference = combine([1.0, -1.0], changes)
    with np.errstate(all="ignore"):
        (low,), (high,) = difference.interval()
        p = refined_p_values(difference.merged(MOST_FLIPPED))[0]
    return dict(zip(names, map(defined, (difference.value[0], low, high, p)), strict=True))


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None
