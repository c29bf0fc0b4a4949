"""What a sweep has to compute: shards of examples, tasks, and their identity.

A shard is a set of examples of one group (model, split, bias type). Its phase 1 task makes
baseline scores and what vectors are fitted from; its phase 2 tasks steer it, each in some of the
cells. Which examples form a shard is decided once, when a group is first planned, and kept in the
manifest: it never depends on the number or the speed of replicas.

A task should take about half a minute. Outputs that are started on CUDA have shards that are large
enough to fill the device and, if all cells take longer, cut the cells into several tasks. All other
outputs have shards that are small enough for one task with all cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from jobs.identity import decimal_text, digest
from jobs.stereoset.resolve import Sweep, SweepModel
from jobs.stereoset.tables import part_key, steered_table, vectors_key
from steering_core.engine import Cell
from steering_core.nulls import NULLS, Null
from steering_core.stereoset import examples_digest
from steering_core.vector_fits import METHODS


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """Examples that share steering vectors."""

    model: str
    split: str
    bias_type: str

    def __str__(self) -> str:
        return f"{self.model}/{self.split}/{self.bias_type}"


class VectorSet(NamedTuple):
    """The vectors that a task is steered with: its group's own, or a null's in their place."""

    group: Group
    null: Null | None = None

    @property
    def key(self) -> str:
        """Where they are stored."""
        g = self.group
        return vectors_key(g.model, g.split, g.bias_type, self.null)


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task as the manifest holds it.

    Attributes:
        plan_id: digest of everything that changes the task's numbers and is known beforehand; the
            id of a phase 1 task. A steered task's id also covers its vectors (``steered_id``).
        tables: ``("sums", "baseline")``, ``("sums",)``, ``("steered",)`` or a null's table; behind
            ``sums`` also ``states``, where the vectors' method needs them.
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
        """``baseline``, ``steered``, or a null, in words."""
        null = self.vector_set.null
        return f"null: {null}" if null else "steered" if self.is_steered else "baseline"

    @property
    def vector_set(self) -> VectorSet:
        """The vectors that a steered task needs."""
        null = next((n for n in NULLS if self.tables == (steered_table(n),)), None)
        return VectorSet(self.group, null)

    @property
    def num_rows_cells(self) -> int:
        """Rows times cells that it scores; a baseline counts as one cell, sums alone as none."""
        num_cells = len(self.cells) if self.is_steered else int("baseline" in self.tables)
        return len(self.example_ids) * num_cells

    def typed_cells(self) -> tuple[Cell, ...]:
        """The cells with coefficients as float64."""
        return tuple(Cell(layer, float(coeff)) for layer, coeff in self.cells)

    def task_id(self, vector_digests: Mapping[int, str] | None = None) -> str:
        """The id that names the task's parts.

        Args:
            vector_digests: by layer, needed for a steered task: one steered with other vectors is
                another task.
        """
        if not self.is_steered:
            return self.plan_id
        digests = vector_digests or {}
        layers = sorted({layer for layer, _ in self.cells})
        return digest({"plan_id": self.plan_id, "vectors": [digests[layer] for layer in layers]})

    def parts(self, task_id: str) -> dict[str, str]:
        """Storage key of each table's part, in the order in which they are committed."""
        g = self.group
        return {t: part_key(t, g.model, g.split, g.bias_type, task_id) for t in self.tables}


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


def packing_for(sweep: Sweep, record: Mapping[str, Any] | None = None) -> Packing:
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


def plan_missing(
    sweep: Sweep, planned: Sequence[PlannedTask], packing: Packing
) -> list[PlannedTask]:
    """Tasks that the sweep needs beside those that its output already holds a plan for.

    A group that is new is cut into shards; a known one keeps its shards and gets the layers and
    cells it lacks.
    """
    added: list[PlannedTask] = []
    by_group: dict[Group, list[PlannedTask]] = {}
    for task in planned:
        by_group.setdefault(task.group, []).append(task)
    for name, model in sweep.models.items():
        for split, bias_type in sweep.groups:
            group = Group(name, split, bias_type)
            added += _plan_group(sweep, model, group, by_group.get(group, []), packing)
    return added


def would_plan(sweep: Sweep, task: PlannedTask) -> bool:
    """Whether the sweep plans this very task: whether its id comes out again.

    For an output whose record is lost, where nothing else tells whose plan it holds.
    """
    group = task.group
    if group.model not in sweep.models or (group.split, group.bias_type) not in sweep.groups:
        return False
    examples, _ = sweep.groups[group.split, group.bias_type]
    if not set(task.example_ids) <= {e.example_id for e in examples}:
        return False
    again = _task(
        sweep,
        sweep.models[group.model],
        group,
        task.tables,
        task.shard,
        task.example_ids,
        task.layers,
        task.cells,
        Packing(task.tokens_per_batch, None),
    )
    return again.plan_id == task.plan_id


def _plan_group(
    sweep: Sweep,
    model: SweepModel,
    group: Group,
    known: Sequence[PlannedTask],
    packing: Packing,
) -> list[PlannedTask]:
    grid = sweep.spec.steering
    cells = [(layer, decimal_text(c)) for layer in sorted(grid.layers) for c in grid.coeffs]
    have_layers = {layer for task in known for layer in task.layers}
    layers = tuple(layer for layer in sorted(grid.layers) if layer not in have_layers)
    missing = {
        null: tuple(cell for cell in cells if cell not in have)
        for null in (None, *sweep.spec.nulls)
        for have in [_cells_of(known, null)]
    }
    if not layers and not any(missing.values()):
        return []
    shards = {task.shard: task.example_ids for task in known} or dict(
        enumerate(_cut(sweep, model, group, packing))
    )
    made = []
    for shard, example_ids in sorted(shards.items()):
        if layers:
            needs_states = METHODS[sweep.spec.vectors.method].needs_states
            pooled = ("sums", "states") if needs_states else ("sums",)
            tables = pooled if known else (*pooled, "baseline")
            made.append(_task(sweep, model, group, tables, shard, example_ids, layers, (), packing))
        for null, lacking in missing.items():
            table = (steered_table(null),)
            made += [
                _task(sweep, model, group, table, shard, example_ids, (), some, packing)
                for some in _cut_cells(sweep, model, group, example_ids, lacking, packing)
            ]
    return made


def _cells_of(tasks: Sequence[PlannedTask], null: Null | None) -> set[tuple[int, str]]:
    return {cell for task in tasks if task.vector_set.null == null for cell in task.cells}


def _cut(sweep: Sweep, model: SweepModel, group: Group, packing: Packing) -> list[tuple[str, ...]]:
    """Shards of a new group: rows of similar length together, in parts of nearly equal size."""
    examples, _ = sweep.groups[group.split, group.bias_type]
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
    sweep: Sweep,
    model: SweepModel,
    group: Group,
    example_ids: tuple[str, ...],
    cells: tuple[tuple[int, str], ...],
    packing: Packing,
) -> list[tuple[tuple[int, str], ...]]:
    """The cells of each task of a shard: neighbouring layers, tasks of nearly equal length."""
    if not (packing.cuts_cells and cells):
        return [cells] if cells else []
    by_id = sweep.by_id[group.split, group.bias_type]
    num_tokens = sum(row.num_packed for row in model.counts([by_id[i][0] for i in example_ids]))
    pass_s = _flops_per_token(model) * num_tokens / _FLOPS_PER_S_CUTTING_CELLS
    passes = [_share_of_blocks(sweep, model, layer) for layer, _ in cells]
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


def _examples_per_task(sweep: Sweep, model: SweepModel) -> int:
    """Examples that a slow device of this kind steers through the whole grid in half a minute."""
    flops_per_example = _flops_per_token(model) * _TOKENS_PER_ROW * _passes(sweep, model)
    fitting = int(_TASK_SECONDS * _FLOPS_PER_S[sweep.device] / flops_per_example)
    return max(_FEWEST_EXAMPLES, min(_MOST_EXAMPLES, fitting))


def _tokens_per_shard(sweep: Sweep, model: SweepModel) -> int:
    """Packed tokens that are steered through the whole grid in half a minute, within limits."""
    flops = _flops_per_token(model) * _passes(sweep, model)
    fitting = int(_TASK_SECONDS * _FLOPS_PER_S_CUTTING_CELLS / flops)
    return max(_FEWEST_TOKENS, min(_MOST_TOKENS, fitting))


def _passes(sweep: Sweep, model: SweepModel) -> float:
    """Passes through all blocks that the whole grid comes to."""
    grid = sweep.spec.steering
    return 1 + sum(
        _share_of_blocks(sweep, model, layer) * len(grid.coeffs) for layer in grid.layers
    )


def _flops_per_token(model: SweepModel) -> int:
    """Of one pass through all blocks."""
    return 2 * model.facts.num_params


def _share_of_blocks(sweep: Sweep, model: SweepModel, layer: int) -> float:
    num_blocks = model.facts.num_blocks
    return (num_blocks - sweep.protocol.apply_at(layer).stream) / num_blocks


def _task(
    sweep: Sweep,
    model: SweepModel,
    group: Group,
    tables: tuple[str, ...],
    shard: int,
    example_ids: tuple[str, ...],
    layers: tuple[int, ...],
    cells: tuple[tuple[int, str], ...],
    packing: Packing,
) -> PlannedTask:
    by_id = sweep.by_id[group.split, group.bias_type]
    examples, folds = zip(*(by_id[i] for i in example_ids), strict=True)
    protocol, unit = sweep.protocol, sweep.spec.steering.unit
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
            "group": str(group),
            "tables": tables,
            "examples": examples_digest(examples),
            "folds": folds,
            "layers": layers,
            "cells": cells,
            "tokens_per_batch": packing.tokens_per_batch or "auto",
        }
    )
    passes = 1 + sum(_share_of_blocks(sweep, model, layer) for layer, _ in cells)
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
