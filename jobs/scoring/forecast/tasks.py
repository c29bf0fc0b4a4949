"""What one task comes to, and sums of it.

The plain loop is what the engine is held against: each of a row's sequences by itself,
through all blocks, once for the baseline and once for each cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from jobs.scoring.forecast.sizes import (
    CERTIFICATE_BYTES,
    rows_part_bytes,
    states_part_bytes,
    sums_part_bytes,
)
from jobs.scoring.groups import ScoredExample
from jobs.scoring.plan import PlannedTask
from jobs.scoring.sweep import AnySweep
from jobs.scoring.tables import HELD_OUT, HELD_OUT_SUMS, STEERED, holds_rows, side_table
from steering_core.flops import needed_flops, plain_flops
from steering_core.pooled import NUM_SIDES
from steering_core.skeleton import Skeleton
from steering_core.work import (
    Batching,
    RowCounts,
    Work,
    baseline_work,
    batch_shapes,
    plain_block_tokens,
    steered_work,
    total_needs,
    total_needs_behind,
)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What tasks come to; forecasts add up.

    Attributes:
        num_rows_cells: as ``PlannedTask.num_rows_cells``.
        work: of the engine.
        needed_flops: see ``steering_core.flops``. What is pooled behind the last scored token is
            not in it, nor what a certificate computes again.
        plain_passes, plain_block_tokens, plain_flops: of the plain loop.
        checked_rows: rows, or (row, cell) pairs, of the certificate.
        checked_passes, checked_block_tokens, checked_flops: of their sequences, on the slow path.
        written_bytes: of the parts.
    """

    num_tasks: int = 0
    num_rows_cells: int = 0
    work: Work = field(default_factory=Work)
    needed_flops: float = 0.0
    plain_passes: int = 0
    plain_block_tokens: int = 0
    plain_flops: int = 0
    checked_rows: int = 0
    checked_passes: int = 0
    checked_block_tokens: float = 0.0
    checked_flops: float = 0.0
    written_bytes: int = 0

    def __add__(self, other: Forecast) -> Forecast:
        return Forecast(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Forecast)))


def _by_arm(tables: Sequence[str]) -> dict[str, list[str]]:
    """A steered task's tables by what steers, in the order in which they are added."""
    found: dict[str, list[str]] = {"fitted": [], "held_out": [], "nulls": [], "side_effects": []}
    arms = {STEERED: "fitted", HELD_OUT: "held_out"}
    for table in tables:
        arm = "side_effects" if side_table(table) else arms.get(table, "nulls")
        found[arm].append(table)
    return {arm: of_arm for arm, of_arm in found.items() if of_arm}


def _num_sequences(rows: Sequence[RowCounts]) -> int:
    return sum(len(row.lengths) for row in rows)


def _sequences_per_row(rows: Sequence[RowCounts]) -> float:
    return _num_sequences(rows) / len(rows)


class Forecaster:
    """Forecasts of the tasks of one model.

    Args:
        batching: how its rows are cut into batches.
    """

    def __init__(self, sweep: AnySweep, model: str, skeleton: Skeleton, batching: Batching) -> None:
        self._sweep, self._model = sweep, sweep.models[model]
        self._skeleton, self._batching = skeleton, batching

    def rows(self, task: PlannedTask) -> list[RowCounts]:
        """Token counts of a task's rows."""
        subject = self._sweep.subject(task.tables[0], task.group)
        return subject.model.counts(self.examples(task))

    def examples(self, task: PlannedTask) -> list[ScoredExample]:
        """The examples of a task."""
        by_id = self._sweep.subject(task.tables[0], task.group).examples
        return [by_id[example_id] for example_id in task.example_ids]

    def forecast(self, task: PlannedTask) -> Forecast:
        """What the task comes to."""
        rows = self.rows(task)
        return self._steered(task, rows) if task.is_steered else self._baseline(task, rows)

    def steered_tokens(self, task: PlannedTask) -> Mapping[str, int]:
        """Tokens x blocks of a steered task by what steers: ``fitted``, ``held_out``, ``nulls``; or
        ``side_effects``, all other data that fitted vectors steer.

        The trunk that they share counts to the first of them that the task has.
        """
        found: dict[str, int] = {}
        num_tables = 0
        for arm, tables in _by_arm(task.tables).items():
            before = num_tables and self._work(task, num_tables).block_tokens
            num_tables += len(tables)
            found[arm] = self._work(task, num_tables).block_tokens - before
        return found

    def _work(self, task: PlannedTask, num_tables: int) -> Work:
        """Of a steered task, if it had so many tables."""
        of_table = [self._sweep.protocol.apply_at(layer) for layer, _ in task.cells]
        return steered_work(
            batch_shapes(self.rows(task), self._batching),
            self._skeleton.costs.num_blocks,
            of_table * num_tables,
            reuses_prefix=self._batching.reuses_prefix,
            measures=self._sweep.spec.measures,
        )

    def _baseline(self, task: PlannedTask, rows: Sequence[RowCounts]) -> Forecast:
        costs, layers = self._skeleton.costs, task.layers
        protocol = self._sweep.protocol
        read = {at(layer) for at in (protocol.read_at, protocol.apply_at) for layer in layers}
        key = task.group.key
        fold_of = self._sweep.subject(task.tables[0], task.group).folds
        held_out = self._sweep.held_out_by_id.get(key, {})
        num_folds, num_held_out_folds = (
            len({folds.get(example_id) for example_id in task.example_ids})
            for folds in (fold_of, held_out)
        )
        width, num = self._skeleton.width, len(rows)
        written = {
            "sums": sums_part_bytes(len(layers), num_folds, width),
            HELD_OUT_SUMS: sums_part_bytes(len(layers), num_held_out_folds, width),
            "states": states_part_bytes(len(layers), num, width),
            "baseline": rows_part_bytes(num, 1, num_scores=self._num_scores(task, rows)),
        }
        # The candidates of both sides, and the stream's norms, which take all candidates.
        per_row = _sequences_per_row(rows)
        pooled_again = NUM_SIDES + per_row if layers else 0
        return self._with_plain(
            Forecast(
                num_tasks=1,
                num_rows_cells=task.num_rows_cells,
                work=baseline_work(batch_shapes(rows, self._batching), costs.num_blocks, read),
                needed_flops=needed_flops(costs, total_needs(rows), [0]),
                written_bytes=sum(
                    written["baseline" if holds_rows(table) else table] for table in task.tables
                ),
            ),
            rows,
            num_cells=1,
            passes_checked=per_row + pooled_again,
        )

    def _steered(self, task: PlannedTask, rows: Sequence[RowCounts]) -> Forecast:
        costs, batching = self._skeleton.costs, self._batching
        of_table = [self._sweep.protocol.apply_at(layer) for layer, _ in task.cells]
        points = of_table * len(task.tables)
        behind = total_needs_behind(rows) if batching.reuses_prefix else None
        streams = [point.stream for point in points]
        measures, needs = self._sweep.spec.measures, total_needs(rows)
        num_scores = self._num_scores(task, rows)
        return self._with_plain(
            Forecast(
                num_tasks=1,
                num_rows_cells=task.num_rows_cells,
                work=self._work(task, len(task.tables)),
                needed_flops=len(points) * needed_flops(costs, needs, streams, behind, measures),
                written_bytes=len(task.tables)
                * rows_part_bytes(len(rows), len(of_table), len(measures), num_scores),
            ),
            rows,
            num_cells=len(points),
            # With kl, the slow path runs the unsteered sequences as well.
            passes_checked=_sequences_per_row(rows) * (2 if "kl" in measures else 1),
        )

    def _num_scores(self, task: PlannedTask, rows: Sequence[RowCounts]) -> float:
        """Float64 scores that a row stores, on average."""
        stored = self._sweep.subject(task.tables[0], task.group).rows
        return _sequences_per_row(rows) * stored.scores_per_candidate

    def _with_plain(
        self,
        engine: Forecast,
        rows: Sequence[RowCounts],
        *,
        num_cells: int,
        passes_checked: float,
    ) -> Forecast:
        """The forecast with the plain loop's part, and the certificate's.

        Which rows are checked is drawn with an id that covers the vectors: a mean row stands for
        each of them.

        Args:
            passes_checked: of each row that is checked.
        """
        costs = self._skeleton.costs
        flops = plain_flops(costs, [length for row in rows for length in row.lengths])
        block_tokens = plain_block_tokens(rows, costs.num_blocks)
        per_task = self._sweep.spec.certificate.rows_per_task
        checked = min(per_task, len(rows) * num_cells)
        passes = round(checked * passes_checked)
        num_sequences = _num_sequences(rows)
        of_all = passes / num_sequences
        return engine + Forecast(
            plain_passes=num_sequences * num_cells,
            plain_block_tokens=block_tokens * num_cells,
            plain_flops=flops * num_cells,
            checked_rows=checked,
            written_bytes=CERTIFICATE_BYTES if checked else 0,
            checked_passes=passes,
            checked_block_tokens=of_all * block_tokens,
            checked_flops=of_all * flops,
        )
