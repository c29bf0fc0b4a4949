"""Phase 1, the fit, phase 2: which tasks can run now, group by group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cluster.storage import Storage
from cluster.tasks import Task
from jobs import __version__
from jobs.stereoset.fitting import fit_shuffled, fit_vectors, given_vectors
from jobs.stereoset.inventory import Inventory, task_id_with
from jobs.stereoset.plan import Group, PlannedTask, VectorSet
from jobs.stereoset.resolve import Sweep
from jobs.stereoset.worker import Payload
from steering_core.errors import InputError
from steering_core.nulls import random_vectors, with_norms_of
from steering_core.vector_fits import METHODS
from steering_core.vectors import SteeringVectors, to_safetensors


class Stages:
    """Hands out tasks as they become possible; a group is steered once its own vectors exist."""

    def __init__(self, sweep: Sweep, inventory: Inventory, storage: Storage) -> None:
        self._sweep = sweep
        self._inventory = inventory
        self._storage = storage
        self._known = dict(inventory.vectors)
        self._by_group: dict[Group, list[PlannedTask]] = {}
        for task in inventory.planned:
            self._by_group.setdefault(task.group, []).append(task)
        self._waiting = {
            group: {
                t.plan_id for t in tasks if not t.is_steered and t.plan_id not in inventory.done
            }
            for group, tasks in self._by_group.items()
        }
        self._running: dict[str, PlannedTask] = {}

    def first_tasks(self) -> list[Task]:
        """Every task that can run now and is not done."""
        tasks = []
        for group, planned in self._by_group.items():
            if self._waiting[group]:
                tasks += [
                    self._task(t, t.task_id()) for t in planned if t.plan_id in self._waiting[group]
                ]
            else:
                tasks += self._steered_tasks(group)
        return tasks

    def planned(self, task_id: str) -> PlannedTask:
        """The planned task behind a task handed out."""
        return self._running[task_id]

    def after(self, task_id: str) -> Iterable[Task]:
        """Tasks that can run because this one is done."""
        done = self._running[task_id]
        waiting = self._waiting[done.group]
        if done.is_steered:
            return []
        waiting.discard(done.plan_id)
        return [] if waiting else self._steered_tasks(done.group)

    def _steered_tasks(self, group: Group) -> list[Task]:
        missing = [
            task
            for task in self._by_group[group]
            if task.is_steered and task.plan_id not in self._inventory.done
        ]
        if not missing:
            return []
        vectors = {of: self._vectors(of) for of in {task.vector_set for task in missing}}
        return [
            self._task(task, str(task_id_with(task, own)), own)
            for task in missing
            for own in [vectors[task.vector_set]]
        ]

    def _vectors(self, of: VectorSet) -> SteeringVectors:
        """The vectors of a set; those of a planned layer that lacks them are made first."""
        unit = self._sweep.spec.steering.unit
        held = self._known.get(of) or SteeringVectors({}, {})
        phase_1 = [task for task in self._by_group[of.group] if not task.is_steered]
        layers = {layer for task in phase_1 for layer in task.layers} - set(held.whole)
        if not layers:
            return held
        made = replace(self._make(of, phase_1, sorted(layers)), unit=unit)
        unmeasured = sorted(layers - set(made.stream_norms))
        if unit == "stream" and unmeasured:
            raise InputError(
                f"{of.group}: the stream where layer {unmeasured[0]} is steered has no finite "
                "mean norm above 0, so steering.unit: stream has no meaning there; leave the layer "
                "out, or use a models.<name>.dtype with a larger range"
            )
        vectors = held.with_layers_of(made)
        self._storage.replace(of.key, to_safetensors(vectors, self._provenance(of, vectors)))
        self._known[of] = vectors
        return vectors

    def _make(
        self, of: VectorSet, phase_1: Sequence[PlannedTask], layers: Sequence[int]
    ) -> SteeringVectors:
        method = self._sweep.spec.vectors.method
        num_folds = self._sweep.num_folds((of.group.split, of.group.bias_type))
        if of.null is None and self._sweep.vectors is not None:
            given = self._sweep.vectors.vectors.whole
            return given_vectors(self._storage, phase_1, {n: given[n] for n in layers})
        if of.null is None:
            return fit_vectors(self._storage, phase_1, layers, method, num_folds)
        like = self._vectors(VectorSet(of.group)).of_layers(layers)
        if of.null == "random":
            return random_vectors(like, str(of.group))
        return with_norms_of(fit_shuffled(self._storage, phase_1, layers, num_folds), like)

    def _provenance(self, of: VectorSet, vectors: SteeringVectors) -> dict[str, str]:
        group = of.group
        model, protocol = self._sweep.models[group.model], self._sweep.protocol
        given = self._sweep.vectors
        examples, _ = self._sweep.groups[group.split, group.bias_type]
        method = self._sweep.spec.vectors.method
        read = {f"read.layer.{layer}": str(protocol.read_at(layer)) for layer in vectors.whole}
        made = {
            "method": method,
            "formula": METHODS[method].formula,
            "source": METHODS[method].source,
        }
        if given is not None and of.null is None:
            told = {f"file.{key}": text for key, text in given.provenance.items()}
            made = {"method": "file", "file": str(self._sweep.spec.vectors.file), **told}
        return {
            "created_by": f"steersweep {__version__}",
            **made,
            **({} if of.null is None else {"null": of.null}),
            "model": self._sweep.spec.models[group.model].path,
            "model_digest": model.facts.digest,
            "dtype": model.dtype,
            "split": group.split,
            "bias_type": group.bias_type,
            "pooling": protocol.pooling,
            "folds": str(self._sweep.num_folds((group.split, group.bias_type))),
            "num_examples": str(len(examples)),
            "data_digest": self._sweep.data_digest,
            **read,
        }

    def _task(
        self, planned: PlannedTask, task_id: str, vectors: SteeringVectors | None = None
    ) -> Task:
        group = planned.group
        by_id = self._sweep.by_id[group.split, group.bias_type]
        examples, folds = zip(*(by_id[i] for i in planned.example_ids), strict=True)
        payload = Payload(
            task_id=task_id,
            tables=planned.tables,
            examples=examples,
            folds=folds,
            tokens_per_batch=planned.tokens_per_batch,
            layers=planned.layers,
            cells=planned.typed_cells(),
            vectors_key=planned.vector_set.key,
            vector_digests=None
            if vectors is None
            else {layer: vectors.digest(layer) for layer, _ in planned.cells},
        )
        self._running[task_id] = planned
        return Task(
            id=task_id,
            pool=group.model,
            cost=planned.cost,
            parts=planned.parts(task_id),
            payload=payload,
            num_items=planned.num_rows_cells,
        )
