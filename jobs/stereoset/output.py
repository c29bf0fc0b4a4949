"""What a sweep finds in its output: a run to go on with, nothing, or something else."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

from cluster.checked import CHECKED_KEY, write_checked
from cluster.lease import Lease
from cluster.ledger import Ledger
from cluster.storage import Storage
from jobs.examples_file import EXAMPLES_KEY, write_examples
from jobs.record import Record
from jobs.same_sweep import changes_of, different_sweep, removals_of
from jobs.session import LOCK_KEY
from jobs.stereoset.batch_size import TUNING
from jobs.stereoset.examples import sweep_examples
from jobs.stereoset.inventory import Inventory, take_inventory
from jobs.stereoset.manifest import from_tables, to_table
from jobs.stereoset.plan import (
    CUTS_CELLS_KEY,
    PlannedTask,
    null_cells,
    old_nulls,
    packing_for,
    plan_missing,
    would_plan,
)
from jobs.stereoset.resolve import Sweep, recorded_identity
from jobs.stereoset.tables import HELD_OUT
from steering_core.nulls import Null
from steersweep.errors import UserError

_OLD_TEMPORARY_S = 3600.0

_OURS = (
    "run.json",
    EXAMPLES_KEY,
    "manifest/",
    "baseline/",
    "sums/",
    "held_out_sums/",
    "states/",
    "steered/",
    "held_out/",
    "nulls/",
    "vectors/",
    TUNING,
    "summary/",
    "log/",
    "figures/",
    "report.html",
    "certificate.json",
    CHECKED_KEY,
    LOCK_KEY,
)


@dataclass(frozen=True)
class Output:
    """An output that a sweep can be computed in.

    Attributes:
        sweep: the sweep as this output has it: held-out rows may be left out of an earlier one.
        inventory: everything planned, what the sweep adds included, and what is done of it.
        added: tasks that are not in the manifest yet.
        is_settled: nothing is left to compute or to write down.
    """

    storage: Storage
    record: Record
    sweep: Sweep
    inventory: Inventory
    added: tuple[PlannedTask, ...]
    is_settled: bool
    _generation: int

    @classmethod
    def read(cls, storage: Storage, sweep: Sweep) -> Self:
        """The output as it is, with the sweep planned into it; writes nothing.

        Raises:
            UserError: it belongs to a different sweep, it has an example that a model cannot take,
                or the folder holds files that no run has left.
        """
        ledger = Ledger(storage)
        before = ledger.read_record()
        generations = ledger.read_manifest()
        known = from_tables(generations)
        if before is None and not known:
            _check_unused(storage)
        sweep = _with_held_out(sweep, before, known)
        _check_same_sweep(storage, before, known, sweep)
        packing = packing_for(sweep, before)
        if known:  # what is there was cut so, and batches are part of a task's identity
            packing = replace(packing, tokens_per_batch=known[0].tokens_per_batch)
        added = plan_missing(sweep, known, packing)
        inventory = take_inventory(storage, [*known, *added])
        is_done = before is not None and before["outcome"] == "done"
        return cls(
            storage=storage,
            record=Record(
                ledger,
                sweep,
                before,
                {"folds": sweep.folds_by_group(), CUTS_CELLS_KEY: packing.cuts_cells},
            ),
            sweep=sweep,
            inventory=inventory,
            added=tuple(added),
            is_settled=is_done and not added and len(inventory.done) == len(inventory.planned),
            _generation=len(generations),
        )

    @property
    def num_left(self) -> int:
        """Tasks that are planned and not done."""
        return len(self.inventory.planned) - len(self.inventory.done)

    def claim(self, stack: ExitStack, **more: Any) -> Lease:
        """Hold the output for as long as the stack is open, and write the plan down.

        The record comes first: it says whose the output is before anything else is there, and is
        refused where another driver has written its own since this one looked.

        Args:
            more: what else the record says of the session.

        Raises:
            UserError: the storage cannot be written to, or another driver holds it.
        """
        self.storage.check_writable()
        lease = stack.enter_context(Lease.acquire(self.storage, LOCK_KEY))
        self.record.write("running", rows_before=self.inventory.num_rows_done, **more)
        self.storage.clean_temporaries(_OLD_TEMPORARY_S)
        write_checked(self.storage, self.inventory.parts)
        write_examples(self.storage, sweep_examples(self.sweep))
        if self.added:
            attempt = uuid.uuid4().hex
            Ledger(self.storage).append_manifest(to_table(self.added), self._generation, attempt)
        return lease


def _check_same_sweep(
    storage: Storage,
    record: Mapping[str, Any] | None,
    known: Sequence[PlannedTask],
    sweep: Sweep,
) -> None:
    """Refuse an output of another sweep, or of a larger grid; a grid may only grow."""
    changes = [] if record is None else changes_of(recorded_identity(record), sweep.identity())
    changes += _lost(sweep, known)
    if record is None and not changes and not all(would_plan(sweep, task) for task in known):
        changes.append("a key that cannot be named, as run.json is lost")
    if not changes:
        _check_draws(storage, sweep, known)
    if changes:
        raise different_sweep(
            storage.uri,
            changes,
            "layers, coeffs, bias types, splits, held-out vectors, nulls and models",
        )


def _with_held_out(
    sweep: Sweep, record: Mapping[str, Any] | None, known: Sequence[PlannedTask]
) -> Sweep:
    """The sweep with held-out rows or without, which the spec need not say.

    A new output has them wherever its vectors are in-sample. One that was started goes on as it was
    started, so that a newer version does not make an old run twice as long.
    """
    wanted = sweep.spec.vectors.held_out
    if wanted is None:
        recorded = (record or {}).get("spec", {}).get("vectors", {}).get("held_out", False)
        is_new = record is None and not known
        wanted = is_new or recorded or _has_table(known, HELD_OUT)
    return replace(sweep, has_held_out=bool(wanted and sweep.held_out_folds))


def _has_table(known: Sequence[PlannedTask], table: str) -> bool:
    return any(table in task.tables for task in known)


def _lost(sweep: Sweep, known: Sequence[PlannedTask]) -> list[str]:
    """Values of the grid that the output holds and the spec no longer has."""
    spec = sweep.spec
    wanted: dict[str, set[Any]] = {
        "models": set(spec.models),
        "data.splits": set(spec.data.splits),
        "data.bias_types": set(spec.data.bias_types),
        "steering.layers": set(spec.steering.layers),
        "steering.coeffs": {float(c) for c in spec.steering.coeffs},
        "vectors.held_out": {"true"} if sweep.has_held_out else set(),
        "nulls": set(spec.nulls.num_draws()),
        "nulls.layers": {layer for layer, _ in null_cells(sweep)},
        "nulls.coeffs": {float(coeff) for _, coeff in null_cells(sweep)},
    }
    held: dict[str, set[Any]] = {key: set() for key in wanted}
    num_draws: Counter[Null] = Counter()
    for task in known:
        held["models"].add(task.group.model)
        held["data.splits"].add(task.group.split)
        held["data.bias_types"].add(task.group.bias_type)
        for of in task.vector_sets:
            axes = "steering" if of.null is None else "nulls"
            held[f"{axes}.layers"].update(layer for layer, _ in task.cells)
            held[f"{axes}.coeffs"].update(float(coeff) for _, coeff in task.cells)
            if of.table == HELD_OUT:
                held["vectors.held_out"].add("true")
            if of.null is not None:
                num_draws[of.null.null] = max(num_draws[of.null.null], of.null.draw + 1)
    held["nulls"] = set(num_draws)
    return removals_of(held, wanted) + [
        f"nulls.{null}: {num} -> {spec.nulls.num_draws()[null]} (the rows of {num} draws are "
        "stored, and a grid may only grow)"
        for null, num in sorted(num_draws.items())
        if spec.nulls.num_draws().get(null, num) < num
    ]


def _check_draws(storage: Storage, sweep: Sweep, known: Sequence[PlannedTask]) -> None:
    """Refuse more draws where an earlier version has stored one without its labels' seed."""
    for null, num in sweep.spec.nulls.num_draws().items():
        if num > 1 and old_nulls(known, null):
            raise UserError(
                f"nulls.{null} is {num}, but {storage.uri} was started by an earlier version and "
                f"holds its one draw in a form that takes no more; set nulls.{null} to 1, or use "
                "--new for a new output"
            )


def _check_unused(storage: Storage) -> None:
    """Refuse a folder that holds files which no run has left."""
    for entry in storage.list():
        if not entry.key.startswith(_OURS):
            raise UserError(
                f"{storage.uri} is not empty but holds no run (it contains {entry.key}); "
                "choose a new or empty output"
            )
