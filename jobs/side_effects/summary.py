"""What the rows of side effects come to: one matrix of changes, and tables that follow from it.

Nothing here reads storage: rows come in, tables go out. ``docs/statistics.md`` explains the
methods; ``tables`` has the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from jobs.estimates.cells import columns_of, defined
from jobs.estimates.parts import groups_of
from jobs.estimates.sums import Unsteered
from jobs.side_effects import fidelity, prompts
from jobs.side_effects.matrix import Cell, Statement, statements
from jobs.side_effects.rows import Measured
from jobs.side_effects.sums import (
    Baseline,
    DataPart,
    Measure,
    Read,
    SteeredData,
    Steering,
    every,
    in_matrix,
)
from jobs.side_effects.tables import (
    MEASURES_SCHEMA,
    fidelity_schema,
    prompt_matches_schema,
    side_effects_schema,
)
from steering_core.datasets.base import Metric

Row = dict[str, Any]

TARGET = "target"
KINDS = (TARGET, "own", "transfer", "bias", "capability", "text", "other")
"""In the order of the matrix."""


def summarise(measured: Iterable[Measured], axes: Sequence[str]) -> Summary:
    """What was measured, as sums by cluster; the rows are read once.

    Args:
        axes: what names a place, in the order of the tables' columns.
    """
    read: dict[Steering, dict[DataPart, dict[str, SteeredData]]] = {}
    part_rows: list[PartRow] = []
    for rows in measured:
        data = DataPart(rows.set, rows.group)
        place = tuple(rows.place[axis] for axis in axes)
        before = Unsteered.of(rows.baseline, rows.metrics)
        baseline = Baseline.of(rows, before)
        parts = [(name, is_in, Baseline.of(rows, before, is_in)) for name, is_in in _parts(rows)]
        for cell in rows.cells:
            steering = Steering(rows.model, place, cell.layer, cell.coeff, rows.prompt)
            compared = before.compared(cell.scored)
            by_vectors = read.setdefault(steering, {}).setdefault(data, {})
            assert rows.vectors not in by_vectors, "measured twice"
            by_vectors[rows.vectors] = SteeredData.of(baseline, cell.dose, compared.sums())
            for name, is_in, of_part in parts:
                part = SteeredData.of(of_part, cell.dose, compared.sums(is_in))
                part_rows += [
                    PartRow(steering, Measure(*data, key), name, _row(part, key))
                    for key in of_part.metrics
                ]
    return Summary(tuple(axes), read, tuple(part_rows))


@dataclass(frozen=True)
class PartRow:
    """The row of a part of a data set, which is all that is kept of it."""

    steering: Steering
    whole: Measure
    part: str
    row: Row


@dataclass(frozen=True)
class Measuring:
    """A measure, and what its numbers are."""

    measure: Measure
    kind: str
    metric: Metric
    in_matrix: bool

    @property
    def name(self) -> str:
        """As a condition names it: ``gap``, ``mmlu.acc``, ``intersentence/race.gap``."""
        if self.kind in (TARGET, "own"):
            return self.measure.metric
        return f"{self.measure.group or self.measure.set}.{self.measure.metric}"


@dataclass(frozen=True)
class Summary:
    """What was read of all steerings and data sets.

    Attributes:
        axes: what names a place.
        read: sums by cluster.
        parts: rows of parts of data sets.
    """

    axes: tuple[str, ...]
    read: Read
    parts: tuple[PartRow, ...]

    def tables(self) -> dict[str, pa.Table]:
        """``side_effects``, ``measures``, ``fidelity`` and ``prompt_matches``.

        Each has its columns (``tables``) even if it has no rows.
        """
        found = fidelity.fidelities(self.cells, self.targets)
        matches = prompts.rows(self.cells, self.targets, found, self.axes)
        return {
            "side_effects": self._side_effects(),
            "measures": pa.Table.from_pylist(
                [_measure_row(measuring) for measuring in self.measures], schema=MEASURES_SCHEMA
            ),
            "fidelity": pa.Table.from_pylist(
                list(fidelity.rows(found, self.cells, self.targets, self.axes)),
                schema=fidelity_schema(self.axes),
            ),
            "prompt_matches": pa.Table.from_pylist(
                list(matches), schema=prompt_matches_schema(self.axes)
            ),
        }

    @cached_property
    def measures(self) -> tuple[Measuring, ...]:
        """All measures of whole data sets, in the order of the matrix."""
        kinds: dict[Measure, str] = {}
        metrics: dict[Measure, Metric] = {}
        for _, data, _, steered_data in every(self.read):
            baseline = steered_data.baseline
            for key, metric in baseline.metrics.items():
                measure = Measure(*data, key)
                metrics[measure] = metric
                if kinds.get(measure) != TARGET:
                    kinds[measure] = TARGET if key == baseline.target else baseline.kind
        has_others = {m.data for m in kinds if not metrics[m].restates}
        left_out = {m for m in kinds if metrics[m].restates and m.data in has_others}
        # Of other groups, the target alone: with all metrics, they would fill the matrix.
        intended = {m.metric for m, kind in kinds.items() if kind == TARGET}
        if intended:
            left_out |= {
                m for m, kind in kinds.items() if kind == "transfer" and m.metric not in intended
            }
        known = [
            Measuring(measure, kind, metrics[measure], measure not in left_out)
            for measure, kind in kinds.items()
        ]
        return tuple(sorted(known, key=lambda measuring: KINDS.index(measuring.kind)))

    @cached_property
    def cells(self) -> dict[Steering, dict[DataPart, SteeredData]]:
        """What the matrix takes of each steering, in the order of the tables."""
        return {
            steering: {
                data: by_vectors[in_matrix(by_vectors)]
                for data, by_vectors in self.read[steering].items()
            }
            for steering in self._steerings
        }

    @cached_property
    def targets(self) -> dict[fidelity.Place, fidelity.Target]:
        """What is meant at each place, and what else counts."""
        return fidelity.targets_of(self.cells, self.matrix_measures)

    @property
    def matrix_measures(self) -> list[Measure]:
        """The columns of the matrix, in order."""
        return [known.measure for known in self.measures if known.in_matrix]

    @cached_property
    def _steerings(self) -> list[Steering]:
        """By model, place and layer; prompts after vectors, doses in their order."""
        models, places, names = (
            list(dict.fromkeys(getattr(steering, name) for steering in self.read))
            for name in ("model", "place", "prompt")
        )
        return sorted(
            self.read,
            key=lambda at: (
                models.index(at.model),
                places.index(at.place),
                bool(at.prompt),
                names.index(at.prompt),
                at.layer or 0,
                at.coeff or 0.0,
            ),
        )

    def _side_effects(self) -> pa.Table:
        """Rows by steering, then in the order of measures: of the matrix, of other vectors, of
        parts."""
        said = self._statements()
        steerings = {steering: n for n, steering in enumerate(self._steerings)}
        measures = {measuring.measure: n for n, measuring in enumerate(self.measures)}
        ordered: list[tuple[tuple[int, int, int], Row]] = []

        def add(steering: Steering, whole: Measure, rank: int, row: Row) -> None:
            place = measures[whole]
            about = {**steering.columns(self.axes), "kind": self.measures[place].kind}
            ordered.append(((steerings[steering], place, rank), {**about, **whole.columns, **row}))

        for steering, data, vectors, steered_data in every(self.read):
            is_shown = vectors == in_matrix(self.read[steering][data])
            for key in steered_data.baseline.metrics:
                measure = Measure(*data, key)
                statement = said.get((steering, measure)) if is_shown else None
                row = _row(steered_data, key) | _columns_of(statement)
                add(steering, measure, int(not is_shown), row)
        for part in self.parts:
            row = {"group": part.part, **part.row, **_columns_of(None)}
            add(part.steering, part.whole, 2, row)
        ordered.sort(key=lambda pair: pair[0])
        rows = [row for _, row in ordered]
        return pa.Table.from_pylist(rows, schema=side_effects_schema(self.axes))

    def _statements(self) -> dict[Cell, Statement]:
        by_model: dict[str, dict[Cell, SteeredData]] = {}
        for steering, data in self.cells.items():
            family = by_model.setdefault(steering.model, {})
            for measure in self.matrix_measures if steering.sign else ():
                if measure.data in data:
                    family[steering, measure] = data[measure.data]
        return {
            cell: statement
            for family in by_model.values()
            for cell, statement in statements(family).items()
        }


def _parts(measured: Measured) -> Iterator[tuple[str, Any]]:
    """Names of parts of the data and their examples [N]; the group of transfer has none."""
    if not measured.group:
        for (key, value), is_in in groups_of(measured.baseline).items():
            yield f"{key}={value}", is_in


def _row(data: SteeredData, key: str) -> Row:
    change = data.change(key)
    deviation = float(data.baseline.deviation(key).value[0])
    return {
        "dose": defined(data.dose),
        "vectors": data.baseline.vectors,
        "before": defined(change.before),
        "after": defined(change.after),
        **columns_of({"change": change.change}, ["change"]),
        "num_examples": data.num_examples(key),
        "num_clusters": len(change.estimate.clusters),
        "standardized": defined(change.change.value / deviation),
    }


def _columns_of(statement: Statement | None) -> Row:
    if statement is None:
        return dict.fromkeys(("p", "simultaneous_low", "simultaneous_high", "is_clear"))
    return {
        "p": defined(statement.p),
        "simultaneous_low": defined(statement.low),
        "simultaneous_high": defined(statement.high),
        "is_clear": statement.is_clear,
    }


def _measure_row(measuring: Measuring) -> Row:
    return {
        "kind": measuring.kind,
        **measuring.measure.columns,
        "in_matrix": measuring.in_matrix,
        **{
            name: getattr(measuring.metric, name)
            for name in ("label", "unit", "better", "formula", "source")
        },
    }
