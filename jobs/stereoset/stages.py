"""Phase 1, the fit, phase 2: which tasks can run now, group by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from cluster.storage import Storage
from cluster.tasks import Task
from jobs import __version__
from jobs.stereoset.fitting import GroupFits
from jobs.stereoset.inventory import Inventory, task_id_with
from jobs.stereoset.plan import Group, PlannedTask, VectorSet, uses_held_out_folds
from jobs.stereoset.resolve import Sweep
from jobs.stereoset.tables import HELD_OUT, STEERED, NullTable
from jobs.stereoset.worker import Payload, StoredVectors
from steering_core.nulls import draw_seed, random_vectors, with_norms_of
from steering_core.vector_fits import METHODS
from steering_core.vectors import SteeringVectors, to_safetensors
from steersweep.errors import UserError


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
        phase_1 = [task for task in self._by_group[group] if not task.is_steered]
        with GroupFits(self._storage, phase_1) as fits:
            for of in {of: None for task in missing for of in task.vector_sets}:
                self._make_vectors(of, fits)
        return [
            self._task(task, task_id)
            for task in missing
            if (task_id := task_id_with(task, self._known)) is not None
        ]

    def _make_vectors(self, of: VectorSet, fits: GroupFits) -> SteeringVectors:
        """The vectors of a set; those of a planned layer that lacks them are made first."""
        unit = self._sweep.spec.steering.unit
        held = self._known.get(of) or SteeringVectors({}, {})
        planned = {
            layer
            for task in self._by_group[of.group]
            if of in task.vector_sets
            for layer, _ in task.cells
        }
        layers = sorted(planned - set(held.whole))
        if not layers:
            return held
        made = replace(self._make(of, fits, layers), unit=unit)
        unmeasured = sorted(set(layers) - set(made.stream_norms))
        if unit == "stream" and unmeasured:
            raise UserError(
                f"{of.group}: the stream where layer {unmeasured[0]} is steered has no finite "
                "mean norm above 0, so steering.unit: stream has no meaning there; leave the layer "
                "out, or use a models.<name>.dtype with a larger range"
            )
        vectors = held.with_layers_of(made)
        self._storage.replace(of.key, to_safetensors(vectors, self._provenance(of, vectors)))
        self._known[of] = vectors
        return vectors

    def _make(self, of: VectorSet, fits: GroupFits, layers: Sequence[int]) -> SteeringVectors:
        if of.null is not None:
            return self._draw(of, of.null, fits, layers)
        fold_of, num_folds = self._folds(of)
        method = self._sweep.spec.vectors.method
        if self._sweep.vectors is not None:
            given = self._sweep.vectors.vectors.whole
            fitted = SteeringVectors({layer: given[layer] for layer in layers}, {})
        elif METHODS[method].needs_states:
            fitted = fits.from_states(layers, method, fold_of, num_folds)
        else:
            fitted = fits.from_sums(layers, num_folds, held_out=of.table == HELD_OUT)
        sizes = Counter(fold_of.values())
        return replace(
            fitted,
            stream_norms=fits.stream_norms(layers),
            fold_sizes=tuple(sizes[fold] for fold in sorted(sizes)) if fitted.folds else (),
        )

    def _draw(
        self, of: VectorSet, null: NullTable, fits: GroupFits, layers: Sequence[int]
    ) -> SteeringVectors:
        """Vectors that mean nothing, of the norms of those that they stand for."""
        is_beside = uses_held_out_folds(self._sweep, of.table)
        stands_for = VectorSet(of.group, HELD_OUT if is_beside else STEERED)
        like = self._make_vectors(stands_for, fits).of_layers(layers)
        fold_of, num_folds = self._folds(of)
        seed = draw_seed(null.null, self._sweep.spec.data.seed, null.draw)
        if null.null == "random":
            name = str(of.group) if null.is_old else f"{of.group}/{seed}"
            return random_vectors(like, name, one_direction=not null.is_old)
        if null.is_old:
            return with_norms_of(fits.shuffled_sums(layers, num_folds), like)
        # By the method of the fitted vectors: a null that is made in another way is no null.
        method = self._sweep.spec.vectors.method
        return with_norms_of(fits.from_states(layers, method, fold_of, num_folds, seed), like)

    def _folds(self, of: VectorSet) -> tuple[dict[str, int], int]:
        """The fold of each example, by which a set is cross-fitted, and how many there are."""
        key = of.group.split, of.group.bias_type
        held_out = uses_held_out_folds(self._sweep, of.table)
        num_folds = self._sweep.num_folds(key, held_out=held_out)
        if held_out:
            return dict(self._sweep.held_out_by_id[key]), num_folds
        return {i: fold for i, (_, fold) in self._sweep.by_id[key].items()}, num_folds

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
            **({} if of.null is None else _provenance_of_draw(of.null)),
            "model": self._sweep.spec.models[group.model].path,
            "model_digest": model.facts.digest,
            "dtype": model.dtype,
            "split": group.split,
            "bias_type": group.bias_type,
            "pooling": protocol.pooling,
            "folds": str(self._folds(of)[1]),
            "num_examples": str(len(examples)),
            "data_digest": self._sweep.data_digest,
            **read,
        }

    def _task(self, planned: PlannedTask, task_id: str) -> Task:
        group = planned.group
        key = group.split, group.bias_type
        by_id = self._sweep.by_id[key]
        examples, folds = zip(*(by_id[i] for i in planned.example_ids), strict=True)
        held_out = self._sweep.held_out_by_id.get(key, {})
        held_out_folds = tuple(held_out[i] for i in planned.example_ids if i in held_out)
        layers = {layer for layer, _ in planned.cells}
        payload = Payload(
            task_id=task_id,
            tables=planned.tables,
            examples=examples,
            folds=folds,
            held_out_folds=held_out_folds,
            tokens_per_batch=planned.tokens_per_batch,
            layers=planned.layers,
            cells=planned.typed_cells(),
            vectors={
                of.table: StoredVectors(
                    of.key,
                    {layer: self._known[of].digest(layer) for layer in layers},
                    held_out_folds if uses_held_out_folds(self._sweep, of.table) else folds,
                )
                for of in planned.vector_sets
            },
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


def _provenance_of_draw(null: NullTable) -> dict[str, str]:
    if null.is_old:
        return {"null": null.null}
    return {"null": null.null, "null.vectors": null.vectors, "null.draw": str(null.draw)}
