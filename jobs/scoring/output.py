"""What a run keeps in its output, and what of a sweep an output decides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import pyarrow as pa

from jobs.scoring.groups import Group
from jobs.scoring.inventory import PART_FOLDERS, Inventory, take_inventory
from jobs.scoring.manifest import ANY_TEXT, from_tables
from jobs.scoring.plan import PlannedTask, null_cells, old_nulls, would_plan
from jobs.scoring.sweep import AnySweep, main_vectors_of
from jobs.scoring.tables import HELD_OUT, side_table
from jobs.sweeps.job import StoredOutput
from jobs.sweeps.parts import StoredParts
from steering_core.nulls import Null
from steersweep.errors import UserError

SweepT = TypeVar("SweepT", bound=AnySweep)


class ScoredOutput(StoredOutput):
    """An output as it was; each of these is read when it is first asked for.

    Attributes:
        axis_values: what a value of an axis looks like.
    """

    axis_values: ClassVar[re.Pattern[str]] = ANY_TEXT

    @property
    def spec(self) -> Mapping[str, Any]:
        """The recorded spec; empty if ``run.json`` is lost."""
        spec: Mapping[str, Any] = (self.record or {}).get("spec", {})
        return spec

    @property
    def main_vectors(self) -> str:
        """What steered the main rows: ``in_sample``, ``held_out`` or ``file``."""
        return main_vectors_of((self.record or {}).get("identity", {}))

    def vectors_elsewhere(self, group: Group) -> str:  # noqa: ARG002 - all have the same
        """What steers data that no vector was fitted to: the vector of all examples."""
        return "file" if self.main_vectors == "file" else "in_sample"

    @cached_property
    def manifest(self) -> list[pa.Table]:
        """The generations of planned tasks."""
        return self.ledger.read_manifest()

    @cached_property
    def planned(self) -> list[PlannedTask]:
        """The tasks that the output was planned with."""
        return from_tables(self.manifest, self.axis_values)

    @cached_property
    def parts(self) -> StoredParts:
        """Its parts."""
        return StoredParts(self.storage, PART_FOLDERS)

    @cached_property
    def inventory(self) -> Inventory:
        """What is planned and done; UserError if there is no run."""
        return take_inventory(self.storage, self.planned or None, self.parts)

    def inventory_of(self, planned: Sequence[PlannedTask]) -> Inventory:
        """What is done of these tasks."""
        return take_inventory(self.storage, planned, self.parts)


def with_held_out(sweep: SweepT, output: ScoredOutput) -> SweepT:
    """The sweep with held-out rows or without, which the spec need not say.

    A new output has them wherever its vectors are in-sample. One that was started goes on as it was
    started, so that a newer version does not make an old run twice as long.
    """
    wanted = sweep.spec.vectors.held_out
    if wanted is None:
        recorded = (output.record or {}).get("spec", {}).get("vectors", {}).get("held_out", False)
        is_new = output.record is None and not output.planned
        has_table = any(HELD_OUT in task.tables for task in output.planned)
        wanted = is_new or recorded or has_table
    return replace(sweep, has_held_out=bool(wanted and sweep.held_out_folds))


def held_values(
    planned: Sequence[PlannedTask], axis_keys: Mapping[str, str]
) -> dict[str, set[Any]]:
    """Values of the grid by key that the tasks of an output have.

    Args:
        axis_keys: by axis, the key of the spec that has its values.
    """
    keys = ("models", *axis_keys.values(), "steering.layers", "steering.coeffs")
    held: dict[str, set[Any]] = {key: set() for key in keys}
    held |= {key: set() for key in ("vectors.held_out", "nulls", "nulls.layers", "nulls.coeffs")}
    held |= held_side_effects(planned)
    for task in planned:
        held["models"].add(task.group.model)
        for axis, value in task.group.place:
            if axis in axis_keys:
                held[axis_keys[axis]].add(value)
        if side_table(task.tables[0]) is not None:
            continue
        for of in task.vector_sets:
            axes = "steering" if of.null is None else "nulls"
            held[f"{axes}.layers"].update(layer for layer, _ in task.cells)
            held[f"{axes}.coeffs"].update(float(coeff) for _, coeff in task.cells)
            if of.table == HELD_OUT:
                held["vectors.held_out"].add("true")
            if of.null is not None:
                held["nulls"].add(of.null.null)
    return held


_SIDE_KEYS = (
    *("side_effects", "side_effects.cells.layers", "side_effects.cells.coeffs"),
    *("side_effects.transfer", "prompts"),
)


def held_side_effects(planned: Sequence[PlannedTask]) -> dict[str, set[Any]]:
    """Values of the keys about side effects that the tasks of an output have."""
    held: dict[str, set[Any]] = {key: set() for key in _SIDE_KEYS}
    for task in planned:
        side = side_table(task.tables[0])
        if side is None:
            continue
        held["side_effects.cells.layers"].update(layer for layer, _ in task.cells)
        held["side_effects.cells.coeffs"].update(float(coeff) for _, coeff in task.cells)
        held["side_effects"].update({side.set} if side.set else ())
        held["prompts"].update({side.prompt} if side.prompt else ())
        held["side_effects.transfer"].update({"true"} if side.of else ())
    return held


def wanted_side_effects(sweep: AnySweep) -> dict[str, set[Any]]:
    """The same of a sweep."""
    return {
        "side_effects": set(sweep.measured),
        "side_effects.cells.layers": {layer for layer, _ in sweep.side_cells},
        "side_effects.cells.coeffs": {float(coeff) for _, coeff in sweep.side_cells},
        "side_effects.transfer": {"true"} if sweep.spec.side_effects.transfer else set(),
        "prompts": set(sweep.spec.prompts),
    }


def wanted_values(sweep: AnySweep, axis_keys: Mapping[str, str]) -> dict[str, set[Any]]:
    """The same of a sweep."""
    spec = sweep.spec
    return {
        "models": set(spec.models),
        **{
            axis_keys[axis]: {key[at] for key in sweep.groups}
            for at, axis in enumerate(sweep.axes)
            if axis in axis_keys
        },
        "steering.layers": set(spec.steering.layers),
        "steering.coeffs": {float(c) for c in spec.steering.coeffs},
        "vectors.held_out": {"true"} if sweep.has_held_out else set(),
        "nulls": set(spec.nulls.num_draws()),
        "nulls.layers": {layer for layer, _ in null_cells(sweep)},
        "nulls.coeffs": {float(coeff) for _, coeff in null_cells(sweep)},
        **wanted_side_effects(sweep),
    }


def fewer_draws(sweep: AnySweep, planned: Sequence[PlannedTask]) -> list[str]:
    """Lines for nulls of which the output holds more draws than the spec has."""
    held: Counter[Null] = Counter()
    for of in (of for task in planned for of in task.vector_sets):
        if of.null is not None:
            held[of.null.null] = max(held[of.null.null], of.null.draw + 1)
    wanted = sweep.spec.nulls.num_draws()
    return [
        f"nulls.{null}: {num} -> {wanted[null]} (the rows of {num} draws are stored, and a grid "
        "may only grow)"
        for null, num in sorted(held.items())
        if wanted.get(null, num) < num
    ]


def is_of_another_sweep(sweep: AnySweep, output: ScoredOutput) -> bool:
    """Whether a task of an output whose record is lost has an id that the sweep does not plan."""
    return output.record is None and not all(would_plan(sweep, task) for task in output.planned)


def check_draws(sweep: AnySweep, output: ScoredOutput) -> None:
    """Refuse more draws if an earlier version has stored one without its labels' seed."""
    for null, num in sweep.spec.nulls.num_draws().items():
        if num > 1 and old_nulls(output.planned, null):
            raise UserError(
                f"nulls.{null} is {num}, but {output.storage.uri} was started by an earlier "
                "version and holds its one draw in a form that takes no more; set "
                f"nulls.{null} to 1, or use --new for a new output"
            )
