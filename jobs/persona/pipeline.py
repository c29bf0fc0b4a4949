"""The stages of a persona sweep, each resumable: what storage holds under a stage's ids is done.

contrast -> judge -> filter -> vectors -> steer -> judge -> project

Ids cover everything that changes a stage's numbers, those of the stages before it included: so
equal specs find their parts again, and a change makes new ones beside the old.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from cluster.parts import commit_part, read_part
from cluster.storage import Storage
from cluster.tasks import Task
from jobs import __version__
from jobs.console import say, warn
from jobs.persona.filter import check_enough, effective_pairs
from jobs.persona.index import Group, Parts
from jobs.persona.judges import Scorer
from jobs.persona.plan import (
    POLARITIES,
    AnswersPayload,
    Asked,
    PartRef,
    SumsPayload,
    answer_tasks,
    cells_of,
    contrast_rows,
    hook_point,
    missing,
    projections_task,
    scores_task,
    steered_rows,
    sums_task,
)
from jobs.persona.resolve import PersonaModel, PersonaSweep
from jobs.persona.spec import POOLINGS
from jobs.persona.stage import Stage
from jobs.persona.tables import FROM_FILE, Phase, vectors_key
from jobs.persona.verdicts import judgement, score_part
from steering_core.vectors import SteeringVectors, to_safetensors
from steersweep.errors import UserError


class FailedVerdictsError(Exception):
    """Some queries could not be asked: their answers have no verdict yet."""


class Pipeline:
    """Runs the stages in turn.

    Args:
        execute: runs tasks that are not done yet on the replicas; raises if some cannot be done.
    """

    def __init__(
        self,
        sweep: PersonaSweep,
        storage: Storage,
        scorer: Scorer,
        execute: Callable[[Stage, Sequence[Task]], None],
    ) -> None:
        self._sweep, self._storage = sweep, storage
        self._scorer, self._execute = scorer, execute
        self._num_answers: dict[str, int] = {}  # by the storage key of their part
        self._groups = [Group(model, trait) for model in sweep.models for trait in sweep.traits]
        self._contrasted = [g for g in self._groups if sweep.traits[g.trait].vectors is None]

    def run(self) -> Parts:
        """All stages; what is there already is not made again.

        Raises:
            UserError: the judge cannot go on, or no pair is effective.
            FailedVerdictsError: verdicts are missing; the same command asks for them again.
        """
        sweep = self._sweep
        parts = Parts(cells=[*cells_of(sweep)], rows_per_task=sweep.rows_per_task)
        self._write(parts, "contrast", self._contrast_tasks())
        self._score(parts, "contrast")
        kept = {
            group: self._effective(parts, group, parts.scores[group, "contrast"])
            for group in self._contrasted
        }
        vectors = self._vectors(parts, kept)
        self._write(parts, "steered", self._steered_tasks(vectors))
        self._score(parts, "steered")
        self._project(parts, vectors)
        return parts

    def _contrast_tasks(self) -> Iterator[tuple[Group, list[Task]]]:
        for group in self._contrasted:
            rows = list(contrast_rows(self._sweep, self._model(group), group.trait))
            yield group, self._answer_tasks(group, "contrast", rows)

    def _steered_tasks(
        self, vectors: Mapping[Group, Mapping[str, SteeringVectors]]
    ) -> Iterator[tuple[Group, list[Task]]]:
        for group in self._groups:
            pooling = self._steers(group)
            steering = vectors[group][pooling]
            digests = {layer: steering.digest(layer) for layer in steering.whole}
            key = vectors_key(group.model, group.trait, pooling)
            rows = list(steered_rows(self._sweep, self._model(group), group.trait))
            yield group, self._answer_tasks(group, "steered", rows, (key, digests))

    def _answer_tasks(
        self,
        group: Group,
        phase: Phase,
        rows: Sequence[Asked],
        vectors: tuple[str, Mapping[int, str]] | None = None,
    ) -> list[Task]:
        return answer_tasks(self._sweep, self._model(group), group.trait, phase, rows, vectors)

    def _model(self, group: Group) -> PersonaModel:
        return self._sweep.models[group.model]

    def _write(
        self, parts: Parts, phase: Phase, by_group: Iterator[tuple[Group, list[Task]]]
    ) -> None:
        tasks = dict(by_group)
        for group, group_tasks in tasks.items():
            for task in group_tasks:
                self._num_answers[task.parts["answers"]] = len(task.payload.rows)
            parts.num_rows[group, phase] = sum(len(task.payload.rows) for task in group_tasks)
        parts.write(self._storage)
        self._run_missing(
            Stage("writing", f"{phase} answers", "written"),
            [*chain(*tasks.values())],
        )
        for group, group_tasks in tasks.items():
            parts.answers[group, phase] = [PartRef(t.parts["answers"], t.id) for t in group_tasks]
        parts.write(self._storage)

    def _run_missing(self, stage: Stage, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        left = missing(self._storage, tasks)
        if left:
            stage.plan(sum(map(self._size, tasks)), {task.id: self._size(task) for task in left})
            self._execute(stage, left)

    def _size(self, task: Task) -> int:
        """Answers that a task is about, by which progress is counted."""
        payload = task.payload
        if isinstance(payload, AnswersPayload):
            return len(payload.rows)
        if isinstance(payload, SumsPayload):
            return len(payload.kept)
        return self._num_answers[payload.answers.key]

    def _score(self, parts: Parts, phase: Phase) -> None:
        identity = self._scorer.judge.identity()
        tasks = {
            group: [
                scores_task(
                    group.model, self._sweep.traits[group.trait].trait, phase, part, identity
                )
                for part in parts.answers[group, phase]
            ]
            for group in self._groups
            if (group, phase) in parts.answers
        }
        every = [*chain(*tasks.values())]
        if self._scorer.judge.needs_replica:
            self._run_missing(Stage("judging", f"{phase} answers", "judged"), every)
        else:
            self._score_here(phase, every)
        for group, group_tasks in tasks.items():
            parts.scores[group, phase] = [PartRef(t.parts["scores"], t.id) for t in group_tasks]
        parts.write(self._storage)

    def _score_here(self, phase: Phase, tasks: Sequence[Task]) -> None:
        """Ask the judge; a part is stored only if no query has failed."""
        left = missing(self._storage, tasks)
        if not left:
            return
        stage = Stage("judging", f"{phase} answers", "judged")
        stage.plan(sum(map(self._size, tasks)), {task.id: self._size(task) for task in left})
        num_failed = 0
        with stage.shown():
            for task in left:
                answers, trait = task.payload.answers, task.payload.trait
                table, num = score_part(self._storage, answers, trait, self._scorer)
                num_failed += num
                if not num:
                    attempt = uuid.uuid4().hex
                    key = task.parts["scores"]
                    commit_part(self._storage, key, table, task_id=task.id, attempt=attempt)
                    stage.finished(task)
        if num_failed:
            raise FailedVerdictsError(
                f"{num_failed:,} verdicts on {phase} answers failed; all others are kept, and the "
                "same command requests these again"
            )

    def _effective(self, parts: Parts, group: Group, scores: Sequence[PartRef]) -> frozenset[str]:
        """The ids of the rows whose pairs pass the filter."""
        judged = {
            row["row_id"]: judgement(row)
            for part in scores
            for row in read_part(self._storage, part.key, part.task_id).to_pylist()
        }
        pairs = sorted({row_id.rsplit(".", 1)[0] for row_id in judged})
        positive, negative = (
            [judged[f"{pair}.{polarity}"] for pair in pairs] for polarity in POLARITIES
        )
        found = effective_pairs(positive, negative, self._sweep.spec.filter)
        parts.pairs[group] = found
        parts.write(self._storage)
        warning = check_enough(found, str(group))
        if warning is None:
            say(found.line(str(group)))
        else:
            warn(warning)
        return frozenset(
            f"{pairs[index]}.{polarity}" for index in found.kept for polarity in POLARITIES
        )

    def _vectors(
        self, parts: Parts, kept: Mapping[Group, frozenset[str]]
    ) -> dict[Group, dict[str, SteeringVectors]]:
        tasks: dict[Group, list[Task]] = {}
        for group in self._contrasted:
            for part in parts.answers[group, "contrast"]:
                ids = read_part(self._storage, part.key, part.task_id)["row_id"].to_pylist()
                if of_part := [row_id for row_id in ids if row_id in kept[group]]:
                    task = sums_task(group.model, group.trait, part, of_part)
                    tasks.setdefault(group, []).append(task)
        self._run_missing(
            Stage("reading", "contrast answers", "read"),
            [*chain(*tasks.values())],
        )
        found: dict[Group, dict[str, SteeringVectors]] = {}
        for group in self._groups:
            if group in tasks:
                of_group = tasks[group]
                sums = [read_part(self._storage, t.parts["sums"], t.id) for t in of_group]
                found[group] = mean_differences(pa.concat_tables(sums), group)
            else:
                found[group] = {FROM_FILE: self._of_file(group)}
            for pooling, vectors in found[group].items():
                data = to_safetensors(vectors, self._provenance(parts, group, pooling))
                self._storage.replace(vectors_key(group.model, group.trait, pooling), data)
            parts.vectors[group] = vectors_key(group.model, group.trait, self._steers(group))
        parts.write(self._storage)
        return found

    def _steers(self, group: Group) -> str:
        """Which of a group's vectors steer."""
        is_contrasted = self._sweep.traits[group.trait].vectors is None
        return self._sweep.spec.vectors.pooling if is_contrasted else FROM_FILE

    def _of_file(self, group: Group) -> SteeringVectors:
        """The vectors that the spec brings, of the blocks that the model has."""
        file = self._sweep.traits[group.trait].vectors
        assert file is not None, "contrasted"
        for layer in self._sweep.spec.steering.layers:
            point = file.read_point(layer)
            if point not in (None, hook_point(layer)):
                warn(f"{group}: layer {layer} was read at {point}, but steers {hook_point(layer)}")
        num_blocks = self._sweep.models[group.model].facts.num_blocks
        whole = {n: v for n, v in file.vectors.whole.items() if 1 <= n <= num_blocks}
        return SteeringVectors(whole, {})

    def _provenance(self, parts: Parts, group: Group, pooling: str) -> dict[str, str]:
        file = self._sweep.traits[group.trait].vectors
        if file is not None:
            return dict(file.provenance)
        model: PersonaModel = self._sweep.models[group.model]
        num_blocks = model.facts.num_blocks
        return {
            "created_by": f"steersweep {__version__}",
            "method": "mean_difference",
            "formula": "mean over effective pairs of (positive - negative), float64 sums",
            "source": "Chen et al. 2025, Persona Vectors",
            "model": self._sweep.spec.models[group.model].path,
            "model_digest": model.facts.digest,
            "dtype": model.dtype,
            "trait": group.trait,
            "pooling": pooling,
            "num_pairs": str(len(parts.pairs[group].kept)),
            **{f"read.layer.{n}": str(hook_point(n)) for n in range(1, num_blocks + 1)},
        }

    def _project(
        self, parts: Parts, vectors: Mapping[Group, Mapping[str, SteeringVectors]]
    ) -> None:
        tasks: dict[tuple[Group, Phase], list[Task]] = {}
        for (group, phase), of_group in parts.answers.items():
            of_model = [
                (
                    other.trait,
                    pooling,
                    vectors_key(other.model, other.trait, pooling),
                    {layer: fitted.digest(layer) for layer in fitted.whole},
                )
                for other, by_pooling in vectors.items()
                if other.model == group.model
                for pooling, fitted in by_pooling.items()
            ]
            tasks[group, phase] = [
                projections_task(group.model, group.trait, phase, part, 1, of_model)
                for part in of_group
            ]
        self._run_missing(Stage("projecting", "answers", "projected"), [*chain(*tasks.values())])
        for key, group_tasks in tasks.items():
            parts.projections[key] = [PartRef(t.parts["projections"], t.id) for t in group_tasks]
        parts.write(self._storage)


def mean_differences(sums: pa.Table, group: Group) -> dict[str, SteeringVectors]:
    """Vectors of each pooling from sums of kept answers: mean positive minus mean negative.

    Raises:
        UserError: every kept answer of a polarity is empty.
    """
    totals: dict[tuple[str, str, int], tuple[np.ndarray, int]] = {}
    for row in sums.to_pylist():
        key = row["pooling"], row["polarity"], row["layer"]
        total, num = totals.get(key, (np.zeros(len(row["total"])), 0))
        totals[key] = total + np.asarray(row["total"]), num + row["num_answers"]
    layers = sorted({layer for _, _, layer in totals})
    found: dict[str, SteeringVectors] = {}
    for pooling in POOLINGS:
        whole = {}
        for layer in layers:
            means = [
                totals.get((pooling, polarity, layer), (np.zeros(0), 0)) for polarity in POLARITIES
            ]
            if not all(num for _, num in means):
                raise UserError(
                    f"{group}: all effective answers of one polarity are empty; raise "
                    "generation.max_new_tokens, or use another model"
                )
            (positive, num_positive), (negative, num_negative) = means
            whole[layer] = (positive / num_positive - negative / num_negative).astype(np.float32)
        found[pooling] = SteeringVectors(whole, {})
    return found
