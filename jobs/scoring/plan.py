"""What a sweep has to compute: shards of examples, tasks, and their identity.

A shard is a set of examples of one group (``groups.Group``). Its phase 1 task makes baseline scores
and what vectors are fitted from; its phase 2 tasks steer it, each in some of the cells. Which
examples form a shard is decided once, when a group is first planned, and kept in the manifest: it
never depends on the number or the speed of replicas.

A task should take about half a minute. Outputs that are started on CUDA have shards that are large
enough to fill the device and, if all cells take longer, cut the cells into several tasks. All other
outputs have shards that are small enough for one task with all cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, permutations
from typing import Any, NamedTuple

from jobs.identity import decimal_text, digest
from jobs.scoring.groups import Group
from jobs.scoring.sweep import AnySweep, SweepModel
from jobs.scoring.tables import (
    HELD_OUT,
    HELD_OUT_SUMS,
    STEERED,
    NullTable,
    SideTable,
    holds_rows,
    null_table,
    part_key,
    side_table,
    vectors_key,
)
from steering_core.engine import Cell
from steering_core.vector_fits import METHODS


class VectorSet(NamedTuple):
    """The vectors of a group that steer the rows of one table."""

    group: Group
    table: str = STEERED

    @property
    def key(self) -> str:
        """Where they are stored."""
        return vectors_key(self.group, self.table)

    @property
    def null(self) -> NullTable | None:
        """The draw, if they mean nothing."""
        return null_table(self.table)


SIDE_PHASES = frozenset({"side effects", "side effects, unsteered", "prompts"})
UNSTEERED_PHASES = frozenset({"baseline", *SIDE_PHASES}) - {"side effects"}
"""Of ``PlannedTask.phase``: what is measured on other data or under prompts; what no vector
steers."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task as the manifest holds it.

    Attributes:
        plan_id: digest of everything that changes the task's numbers and is known beforehand; the
            id of a phase 1 task. A steered task's id also covers its vectors (``steered_id``).
        tables: of a phase 1 task, some of ``sums``, ``states`` (if each example's states are
            needed), ``held_out_sums`` and ``baseline``. Of a steered task, tables of the same rows
            and cells, which share one trunk: ``steered``, ``held_out``, draws of nulls. Or a single
            table of side effects (``tables.SideTable``).
        layers: layers pooled, of a phase 1 task.
        cells: (layer, coeff as decimal text) pairs, of a steered task.
        cost: number of rows times the share of blocks that runs, over all its passes.
        tokens_per_batch: positions of one forward pass; None: what was measured for its model.
    """

    plan_id: str
    group: Group
    tables: tuple[str, ...]
    shard: int
    example_ids: tuple[str, ...]
    layers: tuple[int, ...]
    cells: tuple[tuple[int, str], ...]
    cost: float
    tokens_per_batch: int | None

    @property
    def is_steered(self) -> bool:
        return bool(self.cells)

    @property
    def phase(self) -> str:
        """``baseline``, ``steered``, ``held out``, nulls, or side effects, in words."""
        side = side_table(self.tables[0])
        if side is not None:
            if self.is_steered:
                return "side effects"
            return "prompts" if side.prompt else "side effects, unsteered"
        if not self.is_steered:
            return "baseline"
        nulls = (null_table(table) for table in self.tables)
        names = [
            f"null: {null.null}" if null else table.replace("_", " ")
            for table, null in zip(self.tables, nulls, strict=True)
        ]
        return " and ".join(dict.fromkeys(names))

    @property
    def vector_sets(self) -> tuple[VectorSet, ...]:
        """The vectors that a steered task needs, one set for each of its tables.

        Other data is steered with the vectors of the main table.
        """
        return tuple(
            VectorSet(self.group, STEERED if side_table(table) else table)
            for table in self.tables
            if self.is_steered
        )

    @property
    def fits(self) -> bool:
        """Whether the vectors of its group may wait for it: a phase 1 task."""
        return not self.is_steered and side_table(self.tables[0]) is None

    @property
    def num_rows_cells(self) -> int:
        """Rows times cells that it scores, over its tables; a baseline counts as one cell."""
        if not self.is_steered:
            return len(self.example_ids) * sum(map(holds_rows, self.tables))
        return len(self.example_ids) * len(self.cells) * len(self.tables)

    def typed_cells(self) -> tuple[Cell, ...]:
        """The cells with coefficients as float64."""
        return tuple(Cell(layer, float(coeff)) for layer, coeff in self.cells)

    def task_id(self, vector_digests: Sequence[Mapping[int, str]] = ()) -> str:
        """The id that names the task's parts.

        Args:
            vector_digests: by layer, of each of ``vector_sets``; needed for a steered task: one
                steered with other vectors is another task.
        """
        if not self.is_steered:
            return self.plan_id
        layers = sorted({layer for layer, _ in self.cells})
        of_tables = [of[layer] for of in vector_digests for layer in layers]
        return digest({"plan_id": self.plan_id, "vectors": of_tables})

    def parts(self, task_id: str) -> dict[str, str]:
        """Storage key of each table's part, in the order in which they are committed."""
        return {table: part_key(table, self.group, task_id) for table in self.tables}


@dataclass(frozen=True)
class Packing:
    """How work is cut; fixed when an output is started.

    Attributes:
        tokens_per_batch: positions of one forward pass, padding included; ``None``: measured for
            each model once a replica holds it.
        examples_per_task: at most so many examples in a shard; ``None``: by each model's size.
        cuts_cells: whether the cells of a shard that takes long are cut into several tasks.
    """

    tokens_per_batch: int | None
    examples_per_task: int | None
    cuts_cells: bool = False


_TASK_SECONDS = 30.0
_FLOPS_PER_S = {"cpu": 2e10, "mps": 2e12, "cuda": 1e14, "xla": 1e14}
_TOKENS_PER_ROW = 200
_MOST_EXAMPLES, _FEWEST_EXAMPLES = 256, 8

CUTS_CELLS_KEY = "cuts_cells"
"""Of ``run.json``: the output's ``Packing.cuts_cells``. Absent in outputs of earlier versions."""
_CUTS_CELLS_ON = frozenset({"cuda"})
_FLOPS_PER_S_CUTTING_CELLS = 3e14
_FEWEST_TOKENS, _MOST_TOKENS = 2**14, 2**18
"""Of a shard whose cells are cut: a batch that keeps a large GPU busy, and the largest batch that
is tried (``steering_core.tuning``)."""
_MOST_EXAMPLES_WITH_STATES = 256
"""Phase 1 puts every state of a shard into one part, which the driver reads as a whole."""


def packing_for(sweep: AnySweep, record: Mapping[str, Any] | None = None) -> Packing:
    """The packing of an output, as the spec has it.

    Args:
        record: of an output that is there. It goes on as it began, on whatever device.
    """
    compute = sweep.spec.compute
    tokens, examples = compute.tokens_per_batch, compute.examples_per_task
    return Packing(
        tokens_per_batch=None if tokens == "auto" else tokens,
        examples_per_task=None if examples == "auto" else examples,
        cuts_cells=sweep.device in _CUTS_CELLS_ON
        if record is None
        else bool(record.get(CUTS_CELLS_KEY, False)),
    )


def packing_for_output(
    sweep: AnySweep, record: Mapping[str, Any] | None, known: Sequence[PlannedTask]
) -> Packing:
    """The packing of an output with the size of batches that it was planned with.

    Batches are part of a task's identity.
    """
    packing = packing_for(sweep, record)
    return replace(packing, tokens_per_batch=known[0].tokens_per_batch) if known else packing


def plan_missing(
    sweep: AnySweep, planned: Sequence[PlannedTask], packing: Packing
) -> list[PlannedTask]:
    """Tasks that the sweep needs beside those that its output already holds a plan for.

    A group that is new is cut into shards; a known one keeps its shards and gets the layers and
    cells it lacks. So does a data set whose side effects are measured.
    """
    added: list[PlannedTask] = []
    by_group: dict[Group, list[PlannedTask]] = {}
    for task in planned:
        if side_table(task.tables[0]) is None:
            by_group.setdefault(task.group, []).append(task)
    for name in sweep.models:
        for key in sweep.groups:
            group = sweep.group(name, key)
            of_group = by_group.setdefault(group, [])
            new = _plan_group(sweep, group, of_group, packing)
            of_group += new
            added += new
    return added + plan_side_effects(sweep, by_group, planned, packing)


def plan_side_effects(
    sweep: AnySweep,
    by_group: Mapping[Group, Sequence[PlannedTask]],
    planned: Sequence[PlannedTask],
    packing: Packing,
) -> list[PlannedTask]:
    """The tasks of other data, of prompts and of transfer that are lacking.

    Args:
        by_group: tasks of the sweep's own data, whose shards transfer and prompts take; empty if
            the sweep has none.
        planned: tasks that its output already holds a plan for.
    """
    known: dict[tuple[Group, str], list[PlannedTask]] = {}
    for task in planned:
        for table in task.tables:
            known.setdefault((task.group, table), []).append(task)
    added: list[PlannedTask] = []

    def add(group: Group, side: SideTable, shards: Mapping[int, tuple[str, ...]]) -> None:
        table = str(side)
        of_table = known.get((group, table), [])
        if not side.is_steered:
            have = {task.shard for task in of_table}
            lacking = {shard: ids for shard, ids in shards.items() if shard not in have}
            added.extend(
                _task(sweep, group, (table,), shard, ids, (), (), packing)
                for shard, ids in lacking.items()
            )
            return
        done = {cell for task in of_table for cell in task.cells}
        cells = tuple(cell for cell in sweep.side_cells if cell not in done)
        for shard, ids in shards.items() if cells else ():
            added.extend(
                _task(sweep, group, (table,), shard, ids, (), some, packing)
                for some in _cut_cells(sweep, group, (table,), ids, cells, packing)
            )

    for name in sweep.models:
        whole, groups = Group(name, (), ()), [sweep.group(name, key) for key in sweep.groups]
        for of_set in sweep.measured:
            baseline = SideTable(of_set)
            # Every steering takes the shards of the unsteered rows, also one that is added to a
            # finished output: a report pairs rows before and after by their order in the shards.
            found = known.get((whole, str(baseline)), [])
            shards = {task.shard: task.example_ids for task in found} or dict(
                enumerate(_cut(sweep, whole, str(baseline), packing))
            )
            add(whole, baseline, shards)
            for prompt in sweep.spec.prompts:
                add(whole, SideTable(of_set, prompt=prompt), shards)
            for group in groups:
                add(group, SideTable(of_set, is_steered=True), shards)
        own = {
            group: {task.shard: task.example_ids for task in by_group.get(group, ())}
            for group in groups
        }
        for group, shards in own.items():
            for prompt in sweep.spec.prompts:
                add(group, SideTable(prompt=prompt), shards)
        for group, other in permutations(groups, 2) if sweep.spec.side_effects.transfer else ():
            add(group, SideTable(of=other.place, is_steered=True), own[other])
    return added


def would_plan(sweep: AnySweep, task: PlannedTask) -> bool:
    """Whether the sweep plans this very task: whether its id comes out again.

    For an output whose record is lost, where nothing else tells whose plan it holds.
    """
    group = task.group
    if group.model not in sweep.models or (group.key and group.key not in sweep.groups):
        return False
    try:
        examples = sweep.subject(task.tables[0], group).examples
    except KeyError:  # a data set, a prompt or another group that the sweep does not have
        return False
    if not set(task.example_ids) <= examples.keys():
        return False
    again = _task(
        sweep,
        group,
        task.tables,
        task.shard,
        task.example_ids,
        task.layers,
        task.cells,
        Packing(task.tokens_per_batch, None),
    )
    return again.plan_id == task.plan_id


def uses_held_out_folds(sweep: AnySweep, table: str) -> bool:
    """Whether what a table holds depends on the folds of the held-out vectors."""
    if table in (HELD_OUT, HELD_OUT_SUMS):
        return True
    # In a sweep whose main vectors are held out themselves, draws have the folds of these.
    null = null_table(table)
    return null is not None and null.vectors == "held_out" and sweep.main_vectors != "held_out"


def _plan_group(
    sweep: AnySweep,
    group: Group,
    known: Sequence[PlannedTask],
    packing: Packing,
) -> list[PlannedTask]:
    phase_1 = _lacking_layers(sweep, group, known)
    steered = _lacking_cells(sweep, group, known)
    if not phase_1 and not steered:
        return []
    shards = {task.shard: task.example_ids for task in known} or dict(
        enumerate(_cut(sweep, group, "baseline", packing))
    )
    made = []
    for shard, example_ids in sorted(shards.items()):
        for number, (tables, layers) in enumerate(phase_1):
            with_baseline = not known and number == 0
            tables = (*tables, "baseline") if with_baseline else tables
            made.append(_task(sweep, group, tables, shard, example_ids, layers, (), packing))
        for tables, cells in steered:
            made += [
                _task(sweep, group, tables, shard, example_ids, (), some, packing)
                for some in _cut_cells(sweep, group, tables, example_ids, cells, packing)
            ]
    return made


def _lacking_layers(
    sweep: AnySweep, group: Group, known: Sequence[PlannedTask]
) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """(tables, layers) of the phase 1 tasks that each shard lacks; the first ones pool all."""
    have: dict[str, set[int]] = {}
    for task in known:
        if not task.is_steered:
            for table in task.tables:
                have.setdefault(table, set()).update(task.layers)
    needs_states = METHODS[sweep.spec.vectors.method].needs_states
    # Held-out vectors of a method that needs states are fitted from the same states.
    sums_by_fold = sweep.holds_out(group.key) and not needs_states
    wanted = {
        "sums": True,
        "states": needs_states,
        HELD_OUT_SUMS: sums_by_fold,
    }
    layers_of: dict[tuple[str, ...], list[int]] = {}
    for layer in sorted(sweep.spec.steering.layers):
        lacking = tuple(
            table
            for table, is_wanted in wanted.items()
            if is_wanted and layer not in have.get(table, ())
        )
        if lacking:
            layers_of.setdefault(lacking, []).append(layer)
    tasks = [(tables, tuple(layers)) for tables, layers in layers_of.items()]
    if sweep.spec.nulls.shuffled and not needs_states and not old_nulls(known, "shuffled"):
        # In tasks of their own, which cost one unsteered pass: the other tasks, and so their ids,
        # are the same whether there are nulls or not.
        layers = {layer for layer, _ in null_cells(sweep)} - have.get("states", set())
        tasks += [(("states",), tuple(sorted(layers)))] if layers else []
    return tasks


def _lacking_cells(
    sweep: AnySweep, group: Group, known: Sequence[PlannedTask]
) -> list[tuple[tuple[str, ...], tuple[tuple[int, str], ...]]]:
    """(tables, cells) of the steered tasks that each shard lacks.

    Tables that lack the same cells are steered by the same tasks, so that these share the trunk. So
    many draws of nulls share one that it takes about as long as a task of the main tables.
    """
    cells_of: dict[str, set[tuple[int, str]]] = {}
    for task in known:
        for table in task.tables if task.is_steered else ():
            cells_of.setdefault(table, set()).update(task.cells)

    def lacking(
        tables: Sequence[str], cells: Sequence[tuple[int, str]]
    ) -> list[tuple[tuple[str, ...], tuple[tuple[int, str], ...]]]:
        by_cells: dict[tuple[tuple[int, str], ...], list[str]] = {}
        for table in tables:
            have = cells_of.get(table, ())
            by_cells.setdefault(tuple(c for c in cells if c not in have), []).append(table)
        return [(tuple(of), some) for some, of in by_cells.items() if some]

    main = [STEERED, *([HELD_OUT] if sweep.holds_out(group.key) else [])]
    grid = _cells(sweep)
    found = lacking(main, grid)
    for tables, cells in lacking(_null_tables(sweep, group, known), null_cells(sweep)):
        num_together = max(1, len(grid) * len(main) // len(cells))
        found += [
            (tables[low : low + num_together], cells) for low in range(0, len(tables), num_together)
        ]
    return found


def _cells(sweep: AnySweep) -> list[tuple[int, str]]:
    grid = sweep.spec.steering
    return [(layer, decimal_text(c)) for layer in sorted(grid.layers) for c in grid.coeffs]


def null_cells(sweep: AnySweep) -> list[tuple[int, str]]:
    """The cells that nulls steer."""
    nulls = sweep.spec.nulls
    layers = sweep.spec.steering.layers if nulls.layers is None else nulls.layers
    coeffs = sweep.spec.steering.coeffs if nulls.coeffs is None else nulls.coeffs
    return [(layer, decimal_text(c)) for layer in sorted(layers) for c in coeffs]


def _null_tables(sweep: AnySweep, group: Group, known: Sequence[PlannedTask]) -> list[str]:
    """Tables of every draw, of the main vectors and of held-out ones beside them."""
    holds_out = sweep.holds_out(group.key)
    vectors = [sweep.main_vectors, *(["held_out"] if holds_out else [])]
    tables = []
    for null, num_draws in sweep.spec.nulls.num_draws().items():
        if old := old_nulls(known, null):
            tables += old
            continue
        # In unit `stream`, only the direction counts, and a random one is the same for both.
        serves_both = null == "random" and sweep.spec.steering.unit == "stream"
        of_null = vectors[:1] if serves_both else vectors
        tables += [str(NullTable(null, of, draw)) for draw in range(num_draws) for of in of_null]
    return tables


def old_nulls(known: Sequence[PlannedTask], null: str) -> list[str]:
    """The table of a null's one draw, if an earlier version has begun it."""
    named = {table for task in known for table in task.tables}
    found = ((table, null_table(table)) for table in sorted(named))
    return [table for table, of in found if of and of.null == null and of.is_old]


def _cut(sweep: AnySweep, group: Group, table: str, packing: Packing) -> list[tuple[str, ...]]:
    """Shards of new data: rows of similar length together, in parts of nearly equal size."""
    subject = sweep.subject(table, group)
    model, examples = subject.model, list(subject.examples.values())
    counted = zip(model.counts(examples), examples, strict=True)
    ordered = sorted((-counts.num_packed, example.example_id) for counts, example in counted)
    ids = [example_id for _, example_id in ordered]
    if packing.cuts_cells and packing.examples_per_task is None:
        lengths = [-num_tokens for num_tokens, _ in ordered]
        num_shards = max(1, sum(lengths) // _tokens_per_shard(sweep, model))
        if METHODS[sweep.spec.vectors.method].needs_states:
            num_shards = max(num_shards, math.ceil(len(ids) / _MOST_EXAMPLES_WITH_STATES))
        return [tuple(ids[low:high]) for low, high in _equal_parts(lengths, num_shards)]
    limit = packing.examples_per_task or _examples_per_task(sweep, model)
    num_shards = -(-len(ordered) // limit)
    bounds = [len(ordered) * k // num_shards for k in range(num_shards + 1)]
    return [tuple(ids[low:high]) for low, high in pairwise(bounds)]


def _cut_cells(
    sweep: AnySweep,
    group: Group,
    tables: Sequence[str],
    example_ids: tuple[str, ...],
    cells: tuple[tuple[int, str], ...],
    packing: Packing,
) -> list[tuple[tuple[int, str], ...]]:
    """The cells of each task of a shard: neighbouring layers, tasks of nearly equal length."""
    if not (packing.cuts_cells and cells):
        return [cells] if cells else []
    subject = sweep.subject(tables[0], group)
    model = subject.model
    rows = model.counts([subject.examples[i] for i in example_ids])
    num_tokens = sum(row.num_packed for row in rows)
    pass_s = _flops_per_token(model) * num_tokens / _FLOPS_PER_S_CUTTING_CELLS
    passes = [len(tables) * _share_of_blocks(sweep, model, layer) for layer, _ in cells]
    num_tasks = min(len(cells), max(1, math.ceil(sum(passes) * pass_s / _TASK_SECONDS)))
    return [cells[low:high] for low, high in _equal_parts(passes, num_tasks)]


def _equal_parts(weights: Sequence[float], num_parts: int) -> list[tuple[int, int]]:
    """Bounds of consecutive parts, none empty, whose weights are nearly equal.

    There are ``num_parts``, or as many as there are weights if these are fewer.
    """
    num_parts = min(num_parts, len(weights))
    upto = [0.0, *accumulate(weights)]
    bounds = [0]
    for part in range(1, num_parts):
        wanted = upto[-1] * part / num_parts
        possible = range(bounds[-1] + 1, len(weights) - (num_parts - part) + 1)
        bounds.append(min(possible, key=lambda at: abs(upto[at] - wanted)))
    return list(pairwise([*bounds, len(weights)]))


def _examples_per_task(sweep: AnySweep, model: SweepModel) -> int:
    """Examples that a slow device of this kind steers through the whole grid in half a minute."""
    flops_per_example = _flops_per_token(model) * _TOKENS_PER_ROW * _passes(sweep, model)
    fitting = int(_TASK_SECONDS * _FLOPS_PER_S[sweep.device] / flops_per_example)
    return max(_FEWEST_EXAMPLES, min(_MOST_EXAMPLES, fitting))


def _tokens_per_shard(sweep: AnySweep, model: SweepModel) -> int:
    """Packed tokens that are steered through the whole grid in half a minute, within limits."""
    flops = _flops_per_token(model) * _passes(sweep, model)
    fitting = int(_TASK_SECONDS * _FLOPS_PER_S_CUTTING_CELLS / flops)
    return max(_FEWEST_TOKENS, min(_MOST_TOKENS, fitting))


def _passes(sweep: AnySweep, model: SweepModel) -> float:
    """Passes through all blocks that the whole grid comes to."""
    grid = sweep.spec.steering
    return 1 + sum(
        _share_of_blocks(sweep, model, layer) * len(grid.coeffs) for layer in grid.layers
    )


def _flops_per_token(model: SweepModel) -> int:
    """Of one pass through all blocks."""
    return 2 * model.facts.num_params


def _share_of_blocks(sweep: AnySweep, model: SweepModel, layer: int) -> float:
    num_blocks = model.facts.num_blocks
    return (num_blocks - sweep.protocol.apply_at(layer).stream) / num_blocks


def _task(
    sweep: AnySweep,
    group: Group,
    tables: tuple[str, ...],
    shard: int,
    example_ids: tuple[str, ...],
    layers: tuple[int, ...],
    cells: tuple[tuple[int, str], ...],
    packing: Packing,
) -> PlannedTask:
    subject = sweep.subject(tables[0], group)
    model, protocol, unit = subject.model, subject.protocol, sweep.spec.steering.unit
    held_out_folds = sweep.held_out_by_id.get(group.key, {})
    plan_id = digest(
        {
            "model": model.facts.digest,
            "tokenizer": model.facts.tokenizer_digest,
            # Most models bring no code, and their ids are older than this key.
            **({} if (code := model.facts.code_digest) is None else {"code": code}),
            "dtype": model.dtype,
            "protocol": {
                "read": protocol.read,
                "apply": protocol.apply,
                "pooling": protocol.pooling,
                "scoring": protocol.scoring,
                "positions": protocol.positions,
                "folds": protocol.folds,
                # Absent where it is the default, which is older than the key.
                **({} if protocol.operation == "add" else {"operation": protocol.operation}),
                **({} if unit == "vector" else {"unit": unit}),
            },
            # As above; and nothing is measured of rows that are not steered.
            **({"measures": sweep.spec.measures} if cells and sweep.spec.measures else {}),
            **subject.identity,
            "group": str(group),
            "tables": tables,
            "examples": subject.digest([subject.examples[i] for i in example_ids]),
            # Other data is steered with the vector of all examples, so it has no folds.
            "folds": [subject.folds.get(i, 0) for i in example_ids],
            # Absent where nothing hangs on them, as in every output that is older than the key.
            **(
                {"held_out_folds": [held_out_folds[i] for i in example_ids]}
                if any(uses_held_out_folds(sweep, table) for table in tables)
                else {}
            ),
            "layers": layers,
            "cells": cells,
            "tokens_per_batch": packing.tokens_per_batch or "auto",
        }
    )
    passes = 1 + len(tables) * sum(_share_of_blocks(sweep, model, layer) for layer, _ in cells)
    return PlannedTask(
        plan_id=plan_id,
        group=group,
        tables=tables,
        shard=shard,
        example_ids=example_ids,
        layers=layers,
        cells=cells,
        cost=len(example_ids) * passes,
        tokens_per_batch=packing.tokens_per_batch,
    )
