"""``steersweep verify``: rows of an output, drawn and computed again on the slow path."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import transformers

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.console import detail, print_table, say, warn
from jobs.scoring.inventory import Inventory
from jobs.scoring.measured import protocol_of_sets
from jobs.scoring.output import ScoredOutput
from jobs.scoring.plan import PlannedTask, uses_held_out_folds
from jobs.scoring.sweep import AnySweep, SweepModel
from jobs.scoring.tables import holds_rows, null_table, side_table
from jobs.sweeps.recorded import recorded_sweep
from steering_core.certificate import Certificate, RowName, Tolerance, draw, tolerance_for
from steering_core.engine import Cell, Scores
from steering_core.models import load_model
from steering_core.protocol import Protocol
from steering_core.slow_engine import SlowEngine
from steersweep.errors import UserError

if TYPE_CHECKING:
    from jobs.scoring.job import AnyScoredJob


@dataclass(frozen=True)
class _Verified:
    """What came of one model's rows."""

    model: str
    tolerance: Tolerance
    found: Certificate


def verified(job: AnyScoredJob, output: ScoredOutput, num_rows: int, seed: int) -> dict[str, Any]:
    """Recompute rows of an output, print the outcome and return it as plain data.

    Reads model and data from where the run had them, in this process, and writes nothing.

    Args:
        num_rows: rows of each model, spread over its groups, baseline and steered.
        seed: for choosing them.

    Raises:
        UserError: no run there, nothing finished, model or data changed since, or not where they
        were.
    """
    storage = output.storage
    sweep = recorded_sweep(job, output)
    inventory = output.inventory
    if not inventory.done:
        raise UserError(f"{storage.uri} holds no finished task yet; run the sweep first")
    models = verified_rows(storage, sweep, inventory, num_rows, seed)
    num_missing = len(inventory.planned) - len(inventory.done) if output.outcome == "done" else 0
    if num_missing:
        # A steered part's name covers its vectors: with other vectors it is not found.
        warn(
            f"the run finished, but {num_missing:,} of its tasks have no results for the vectors "
            "that are stored now; the same `steersweep run` recomputes them"
        )
    verdicts = {model["verdict"] for model in models}
    is_broken = num_missing > 0 or "broken" in verdicts
    return {
        "verdict": "broken" if is_broken else "holds" if "holds" in verdicts else "not checked",
        "num_missing_tasks": num_missing,
        "models": models,
    }


def verified_rows(
    storage: Storage, sweep: AnySweep, inventory: Inventory, num_rows: int, seed: int
) -> list[dict[str, Any]]:
    """Recompute rows of each model, print the outcome and return it as plain data.

    Args:
        num_rows, seed: as ``verified`` takes them.
    """
    found = [
        _verify_model(storage, sweep, model, inventory, num_rows, seed)
        for model in sweep.models.values()
    ]
    _print(found)
    for v in found:
        if v.found.worst is not None:
            (detail if v.found.holds else warn)(f"{v.model}: {v.found.worst}")
    return [
        {
            "model": v.model,
            "verdict": _verdict(v.found),
            "num_rows": v.found.num_rows_checked,
            "largest_difference": v.found.largest_difference,
            "largest_kl_difference": v.found.largest_kl_difference,
            "tolerance": v.tolerance.score,
            "num_changed_choices": v.found.num_changed_choices,
            "num_non_finite": v.found.num_non_finite,
            "worst_row": None if v.found.worst is None else str(v.found.worst),
        }
        for v in found
    ]


def _verify_model(
    storage: Storage,
    sweep: AnySweep,
    model: SweepModel,
    inventory: Inventory,
    num_rows: int,
    seed: int,
) -> _Verified:
    limit = sweep.spec.certificate.tolerance
    tolerance = tolerance_for(model.dtype, None if limit == "auto" else limit)
    drawn = _drawn(inventory, model.name, num_rows, seed)
    if not drawn:
        return _Verified(model.name, tolerance, Certificate())
    transformers.logging.disable_progress_bar()
    loaded = load_model(model.source, device=sweep.device, dtype=model.dtype)
    slow = {
        protocol: SlowEngine(loaded, protocol, sweep.spec.measures)
        for protocol in (sweep.protocol, protocol_of_sets(sweep.protocol))
    }
    found = [
        _verify_row(sweep, inventory, slow, tolerance, task, table, row)
        for (task, table), rows in drawn.items()
        for row in _stored_rows(storage, inventory, task, table, rows)
    ]
    return _Verified(model.name, tolerance, Certificate.joined(found))


def _drawn(
    inventory: Inventory, model: str, num_rows: int, seed: int
) -> dict[tuple[PlannedTask, str], list[int]]:
    """Numbers of rows by task and table.

    About as many of each group's baseline as of its steered rows, of its held-out ones, and of all
    draws of a null together.
    """
    strata: dict[tuple[str, ...], list[tuple[PlannedTask, str]]] = defaultdict(list)
    for task in inventory.tasks_done():
        for table in task.tables if task.group.model == model else ():
            if holds_rows(table):
                null, side = null_table(table), side_table(table)
                kind = table if null is None else f"nulls/null={null.null}"
                kind = kind if side is None else task.phase
                strata[str(task.group), kind].append((task, table))
    # Fewer rows than strata: which of them get one is drawn as well.
    keys = sorted(strata)
    order = [keys[n] for n in draw(f"{seed}/{model}", len(keys), num_rows)]
    drawn: dict[tuple[PlannedTask, str], list[int]] = defaultdict(list)
    for place, key in enumerate(order):
        parts = strata[key]
        sizes = [len(task.example_ids) * max(1, len(task.cells)) for task, _ in parts]
        share = num_rows // len(order) + (place < num_rows % len(order))
        ends = np.cumsum(sizes)
        for number in draw(f"{seed}/{model}/{key}", int(ends[-1]), share):
            at = int(np.searchsorted(ends, number, side="right"))
            drawn[parts[at]].append(number - int(ends[at]) + sizes[at])
    return drawn


def _stored_rows(
    storage: Storage, inventory: Inventory, task: PlannedTask, table: str, rows: list[int]
) -> Iterator[pa.Table]:
    task_id = inventory.task_ids[task.plan_id]
    part = read_part(storage, task.parts(task_id)[table], task_id)
    for row in rows:
        yield part.slice(row, 1)


def _verify_row(
    sweep: AnySweep,
    inventory: Inventory,
    slow: Mapping[Protocol, SlowEngine],
    tolerance: Tolerance,
    task: PlannedTask,
    table: str,
    row: pa.Table,
) -> Certificate:
    group = task.group
    subject = sweep.subject(table, group)
    stored = row.to_pylist()[0]
    example_id = stored["example_id"]
    example, engine = subject.examples[example_id], slow[subject.protocol]
    place = group.place + ((("set", subject.name),) if subject.name else ())
    name = RowName(example_id, place, stored["layer"], stored["coeff"])
    (encoded,) = subject.model.encode((example,))
    if task.is_steered:
        cell = Cell(stored["layer"], stored["coeff"])
        (of,) = (of for of, its in zip(task.vector_sets, task.tables, strict=True) if its == table)
        vectors = inventory.vectors[of]
        if side_table(table):  # other data is steered with the vector of all examples
            vectors = vectors.without_folds()
        is_held_out = uses_held_out_folds(sweep, table)
        folds = sweep.held_out_by_id[group.key] if is_held_out else subject.folds
        wanted, wanted_kl = engine.row_measured(encoded, cell, vectors, folds.get(example_id, 0))
    else:
        wanted, wanted_kl = engine.row_scores(encoded), None
    choice = -1 if stored["choice_index"] is None else stored["choice_index"]
    scores = subject.rows.stored_scores(row, [example])
    num_scored = np.asarray([[len(c.scored_ids) for c in encoded.candidates]])
    right = int(subject.rows.chosen(Scores(wanted[None], num_scored))[0])
    found = Certificate.of_scores([name], scores, [wanted], tolerance, [(choice, right)])
    if wanted_kl is None:
        return found
    stored_kl = np.asarray([np.nan if stored.get("kl") is None else stored["kl"]])
    of_kl = Certificate.of_kl([name], stored_kl, np.asarray([wanted_kl]), tolerance)
    return Certificate.joined([found, of_kl])


def _print(verified: list[_Verified]) -> None:
    print_table(
        "stored rows against the plain forward pass",
        ["model", "rows", "largest difference", "changed choices", "tolerance", "verdict"],
        [
            [
                v.model,
                f"{v.found.num_rows_checked:,}",
                f"{v.found.largest_difference:.2g}",
                f"{v.found.num_changed_choices:,}",
                f"{v.tolerance.score:g}",
                _verdict(v.found),
            ]
            for v in verified
        ],
    )
    largest = max(v.found.largest_difference for v in verified)
    say(f"largest difference: {largest:.2g} nats")
    of_kl = [d for v in verified if (d := v.found.largest_kl_difference) is not None]
    if of_kl:
        say(f"largest difference of kl: {max(of_kl):.2g} nats")
    num_non_finite = sum(v.found.num_non_finite for v in verified)
    if num_non_finite:
        say(f"{num_non_finite:,} scores are not finite, neither stored nor recomputed")


def _verdict(found: Certificate) -> str:
    if not found.num_rows_checked:
        return "not checked"
    return "holds" if found.holds else "broken"
