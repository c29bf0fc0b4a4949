"""What a sweep does in an output: phase 1, the fits of each group, phase 2.

Groups (``groups.Group``) go their way independently of each other: a group is steered as
soon as its own vectors exist.

    phase 1 tasks -> fit tasks -> the driver merges their parts into the group's files -> steered
    tasks

The ids of steered tasks cover the digests of their vectors, and attempts of a fit may race. So a
fit leaves a part that is put if absent, everyone goes by the part that is there, and only the
driver makes files of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import pyarrow as pa

from cluster.ledger import Ledger
from cluster.parts import read_part
from cluster.tasks import Pool, Receipt, Task, WorkerFactory
from jobs.identity import digest
from jobs.scoring.batch_size import tuning_key
from jobs.scoring.fit_task import FITS_SCHEMA, FitPayload, SetToFit, num_layers_at_once
from jobs.scoring.forecast.session import Tally
from jobs.scoring.groups import Group
from jobs.scoring.inventory import task_id_with
from jobs.scoring.manifest import append
from jobs.scoring.output import ScoredOutput
from jobs.scoring.plan import (
    CUTS_CELLS_KEY,
    PlannedTask,
    VectorSet,
    packing_for_output,
    plan_missing,
    uses_held_out_folds,
)
from jobs.scoring.set_scorer import Payload, SteeringOf
from jobs.scoring.sweep import AnySweep
from jobs.scoring.tables import FITS, HELD_OUT, part_key, side_table
from jobs.scoring.vectors import GroupVectors
from jobs.sweeps.job import Files, Replicas, Workflow
from jobs.sweeps.parts import PartRef
from jobs.sweeps.steps import Stage, Step
from jobs.words import count
from steering_core.nulls import draw_seed
from steering_core.vector_fits import METHODS

SweepT = TypeVar("SweepT", bound=AnySweep)

SCORING = Stage("scoring", "rows")
FITTING = Stage("fitting", "vectors")

_DRAWS_PER_FIT = 16
"""Shuffled draws that one task fits: they share the states that it reads."""


class ScoredWorkflow(Workflow, Generic[SweepT]):
    """See the module; ``sweep`` is as the output has it (``output.with_held_out``)."""

    def __init__(self, sweep: SweepT, output: ScoredOutput, files: Files) -> None:
        self.sweep, self._files = sweep, files
        self._storage = output.storage
        self._generation = len(output.manifest)
        known = output.planned
        packing = packing_for_output(sweep, output.record, known)
        self._cuts_cells = packing.cuts_cells
        self._added = plan_missing(sweep, known, packing)
        self.inventory = output.inventory_of([*known, *self._added])
        self.stored = output.parts
        self.is_settled = not self._added
        self._vectors = GroupVectors(sweep, self.inventory.vectors)
        self._by_group: dict[Group, list[PlannedTask]] = {}
        for task in self.inventory.planned:
            self._by_group.setdefault(task.group, []).append(task)
        self._planned: dict[str, PlannedTask] = {}
        self._tally: Tally | None = None

    # -- what there is to say -------------------------------------------------------------------

    @property
    def num_left(self) -> int:
        """Tasks that are planned and not done."""
        return len(self.inventory.planned) - len(self.inventory.done)

    def totals(self) -> Mapping[Stage, int]:
        """See ``Workflow``."""
        return {SCORING: sum(task.num_rows_cells for task in self.inventory.planned)}

    def most_tasks(self) -> int:
        """See ``Workflow``."""
        return max(1, self.num_left)

    def pools(self, replicas: Replicas) -> Sequence[Pool]:
        """A pool of replicas for each model."""
        sweep, compute = self.sweep, self.sweep.spec.compute
        # What an earlier version began, it began without kernels; its outputs do not say so.
        begun = {task.group.model for task in self.inventory.tasks_done()}
        return [
            Pool(
                name=name,
                factory=WorkerFactory(
                    "jobs.scoring.worker:ScoredWorker",
                    {
                        "source": model.source,
                        "protocol": sweep.protocol,
                        "rows": sweep.rows,
                        "layers": sweep.spec.steering.layers,
                        "measures": sweep.spec.measures,
                        "device": sweep.device,
                        "dtype": model.dtype,
                        "num_threads": compute.num_threads,
                        "gpu_share": replicas.share.gpu_share,
                        "storage": replicas.storage,
                        "certificate": sweep.spec.certificate,
                        "tuning_key": tuning_key(name),
                        "accelerate": compute.accelerate == "auto" and name not in begun,
                        "sets": {of: found.rows for of, found in sweep.measured.items()},
                    },
                ),
                share=replicas.share,
            )
            for name, model in sweep.models.items()
        ]

    def headlines(self) -> Sequence[str]:
        """See ``Workflow``."""
        sweep, inventory = self.sweep, self.inventory
        num_examples = sum(len(examples) for examples, _ in sweep.groups.values())
        num_cells = len(sweep.spec.steering.layers) * len(sweep.spec.steering.coeffs)
        twice = ", in-sample and held out" if sweep.has_held_out else ""
        num_rows = sum(task.num_rows_cells for task in inventory.planned)
        more = "".join(f" + {words}" for words in _measured(sweep))
        kept = f", {len(inventory.done):,} of them done before" if inventory.done else ""
        return [
            f"{count(len(sweep.models), 'model')} x {count(num_examples, 'example')} x "
            f"{count(num_cells, 'cell')}{twice} + baseline{more} = {count(num_rows, 'row')} in "
            f"{count(len(inventory.planned), 'task')}{kept}"
        ]

    def warnings(self) -> Sequence[str]:
        """See ``Workflow``."""
        cluster = self.sweep.cluster
        return [
            f"{group} has no held-out vectors: all of its examples share one {cluster}, so none "
            "would be left to fit from"
            for group in self.sweep.without_held_out
        ]

    @abstractmethod
    def examples(self) -> pa.Table:
        """See ``Workflow``."""

    def texts(self) -> Mapping[str, pa.Table]:
        """See ``Workflow``: also those of the data sets of side effects."""
        of_sets = {found.texts_key: found.texts() for found in self.sweep.measured.values()}
        return {**super().texts(), **of_sets}

    def record(self) -> Mapping[str, Any]:
        """See ``Workflow``."""
        return {"folds": self.sweep.folds_by_group(), CUTS_CELLS_KEY: self._cuts_cells}

    def planned(self) -> Mapping[str, Any]:
        """See ``Workflow``."""
        before = {"rows_before": self.inventory.num_rows_done}
        if not self.num_left:
            return before
        self._tally = Tally(self.sweep, self.inventory)
        return {**before, "planned": self._tally.planned}

    def write_plan(self) -> None:
        """Append what is new to the manifest."""
        append(Ledger(self._storage), self._added, self._generation)

    def done(self, task: Task, receipt: Receipt) -> None:
        """See ``Workflow``."""
        if self._tally is not None and task.id in self._planned:
            self._tally.add(self._planned[task.id], receipt)

    def session(self, elapsed_s: float) -> Mapping[str, Any]:
        """See ``Workflow``."""
        return {} if self._tally is None else {"actual": self._tally.actual(elapsed_s)}

    def set_aside(self, task: Task, step: Step, reason: str) -> Mapping[str, Any]:
        """See ``Workflow``."""
        entry = super().set_aside(task, step, reason)
        planned = self._planned.get(task.id)
        return {**entry, "shard": None if planned is None else planned.shard}

    # -- steps ----------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """Phase 1 of each group; the fits and the steered tasks follow from it."""
        for group, planned in self._by_group.items():
            phase_1 = [self._task(task, task.task_id()) for task in planned if task.fits]
            # Unsteered rows of other data and of prompts: no vector is fitted from them, so fits do
            # not wait for them.
            others = [
                self._task(task, task.task_id())
                for task in planned
                if not (task.is_steered or task.fits)
            ]
            # What is steered already may be there before phase 1 of a layer that was added.
            done = [
                self._task(task, self.inventory.task_ids[task.plan_id])
                for task in planned
                if task.is_steered and task.plan_id in self.inventory.done
            ]
            yield Step(SCORING, str(group), done + others)
            yield Step(SCORING, str(group), phase_1, then=partial(self._after_phase_1, group))

    def _after_phase_1(self, group: Group) -> Iterable[Step]:
        """The fits of the vectors that are not there yet, or the steered tasks at once."""
        missing = self._not_steered(group)
        lacking = self._vectors.lacking(missing, self._by_group[group])
        if not lacking:
            return [self._steered_step(group)]
        fits = self._fit_tasks(group, lacking)
        merge = partial(self._after_fits, group, lacking, fits)
        return [Step(FITTING, str(group), fits, then=merge)]

    def _after_fits(
        self, group: Group, lacking: Mapping[VectorSet, Collection[int]], fits: Sequence[Task]
    ) -> Iterable[Step]:
        """Merge what the fits have left into the group's files, and hand out the steered tasks."""
        parts = [read_part(self._storage, task.parts[FITS], task.id) for task in fits]
        table = pa.concat_tables([FITS_SCHEMA.empty_table(), *parts])
        merged = self._vectors.merged(lacking, table)
        self._files.replace_all({of.key: data for of, data in merged})
        return [self._steered_step(group)]

    def _steered_step(self, group: Group) -> Step:
        tasks = []
        for task in self._not_steered(group):
            task_id = task_id_with(task, self._vectors.known)
            assert task_id is not None, "its vectors are there"
            tasks.append(self._task(task, task_id))
        return Step(SCORING, str(group), tasks)

    def _not_steered(self, group: Group) -> list[PlannedTask]:
        """Steered tasks of a group that are not done."""
        return [
            task
            for task in self._by_group[group]
            if task.is_steered and task.plan_id not in self.inventory.done
        ]

    # -- tasks ----------------------------------------------------------------------------------

    def _fit_tasks(self, group: Group, lacking: Mapping[VectorSet, Sequence[int]]) -> list[Task]:
        """Tasks that fit the sets, each some of them at some layers.

        Random draws need no fit: the driver draws them when it merges.
        """
        batches: dict[tuple[tuple[int, ...], bool], list[VectorSet]] = {}
        for of, layers in lacking.items():
            if of.null is None or of.null.null != "random":
                batches.setdefault((tuple(layers), of.null is not None), []).append(of)
        tasks = []
        for (layers, _), sets in batches.items():
            for low in range(0, len(sets), _DRAWS_PER_FIT):
                some = [self._set_to_fit(of) for of in sets[low : low + _DRAWS_PER_FIT]]
                at_once = self._layers_at_once(group, some)
                tasks += [
                    self._fit_task(group, layers[first : first + at_once], some)
                    for first in range(0, len(layers), at_once)
                ]
        return tasks

    def _layers_at_once(self, group: Group, sets: Sequence[SetToFit]) -> int:
        if not any(of.source == "states" for of in sets):
            return len(self.sweep.spec.steering.layers)
        examples, _ = self.sweep.groups[group.key]
        return num_layers_at_once(len(examples), self.sweep.models[group.model].facts.width)

    def _set_to_fit(self, of: VectorSet) -> SetToFit:
        sweep, table, null = self.sweep, of.table, of.null
        fold_of, num_folds = self._vectors.folds(of)
        seed = None
        if null is not None and null.is_old:
            source = "old_shuffled_sums"
        elif null is not None:
            # By the method of the fitted vectors: a null that is made in another way is no null.
            source, seed = "states", draw_seed(null.null, sweep.spec.data.seed, null.draw)
        elif sweep.vectors is not None:
            source = "none"
        elif METHODS[sweep.spec.vectors.method].needs_states:
            source = "states"
        else:
            source = "held_out_sums" if table == HELD_OUT else "sums"
        return SetToFit(table, source, fold_of, num_folds, seed)  # type: ignore[arg-type]

    def _fit_task(self, group: Group, layers: Sequence[int], sets: Sequence[SetToFit]) -> Task:
        parts = {
            table: tuple(
                PartRef(task.parts(task.plan_id)[table], task.plan_id)
                for task in self._by_group[group]
                if task.fits and table in task.tables and set(task.layers) & set(layers)
            )
            for table in ("sums", "held_out_sums", "states")
        }
        sources = {of.source for of in sets}
        method = self.sweep.spec.vectors.method
        task_id = digest(
            {
                "table": FITS,
                "group": str(group),
                "method": method,
                "layers": list(layers),
                "parts": {
                    table: [ref.task_id for ref in refs]
                    for table, refs in parts.items()
                    if table == "sums" or table in sources
                },
                "sets": [
                    [of.table, of.source, of.num_folds, of.label_seed, sorted(of.fold_of.items())]
                    for of in sets
                ],
            }
        )
        payload = FitPayload(
            task_id=task_id,
            group=str(group),
            method=method,
            layers=tuple(layers),
            sums=parts["sums"],
            held_out_sums=parts["held_out_sums"] if "held_out_sums" in sources else (),
            states=parts["states"] if "states" in sources else (),
            sets=tuple(sets),
        )
        key = part_key(FITS, group, task_id)
        return Task(task_id, group.model, 1.0, {FITS: key}, payload, is_urgent=True)

    def _task(self, planned: PlannedTask, task_id: str) -> Task:
        """A task for a replica; without what it is to compute if it is done already."""
        is_done = planned.plan_id in self.inventory.done
        if not is_done:
            self._planned[task_id] = planned
        return Task(
            id=task_id,
            pool=planned.group.model,
            cost=planned.cost,
            parts=planned.parts(task_id),
            payload=None if is_done else self._payload(planned, task_id),
            num_items=planned.num_rows_cells,
        )

    def _payload(self, planned: PlannedTask, task_id: str) -> Payload:
        group, table = planned.group, planned.tables[0]
        held_out = {} if side_table(table) else self.sweep.held_out_by_id.get(group.key, {})
        layers = {layer for layer, _ in planned.cells}
        payload = replace(
            Payload.of(self.sweep, planned, task_id),
            held_out_folds=tuple(held_out[i] for i in planned.example_ids if i in held_out),
        )
        return replace(
            payload,
            vectors={
                name: SteeringOf(self._vectors.stored(of, layers), self._folds(name, payload))
                for name, of in zip(planned.tables, planned.vector_sets, strict=False)
            },
        )

    def _folds(self, table: str, payload: Payload) -> tuple[int, ...] | None:
        """By which an example's vector is chosen; other data gets the vector of all examples."""
        if side_table(table) is not None:
            return None
        is_held_out = uses_held_out_folds(self.sweep, table)
        return payload.held_out_folds if is_held_out else payload.folds


def _measured(sweep: AnySweep) -> Iterator[str]:
    """What is measured besides the sweep's own data, in words."""
    if sweep.measured:
        yield f"side effects on {count(len(sweep.measured), 'data set')}"
    if sweep.spec.side_effects.transfer:
        yield "transfer between groups"
    if sweep.spec.prompts:
        yield count(len(sweep.spec.prompts), "prompt")
