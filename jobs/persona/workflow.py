"""What a persona sweep does in an output, for each model and trait.

    write contrast answers -> judge them -> effective pairs -> sum their states -> vectors
    -> write steered answers -> judge them
    every answer, once all vectors of its model are known -> project it on them

    data sets of side_effects: unsteered at once; under a trait's vectors once these are known

Stages overlap: a part of answers is judged as soon as it is there, and groups do not wait for each
other, except that projections need the vectors of all traits. Ids cover everything that changes a
stage's numbers, those of the stages before it included: equal specs find their parts again, and a
change makes new ones beside the old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import ObjectNotFoundError
from cluster.parts import read_part
from cluster.tasks import Pool, Task, WorkerFactory
from jobs import __version__
from jobs.console import warn
from jobs.persona.examples import sweep_examples
from jobs.persona.filter import check_enough, effective_pairs
from jobs.persona.index import INDEX_KEY, ROWS_PER_TASK_KEY, Group, Parts
from jobs.persona.judges import Scorer
from jobs.persona.output import PersonaOutput
from jobs.persona.plan import (
    JUDGE_POOL,
    POLARITIES,
    Asked,
    answer_tasks,
    cells_of,
    contrast_rows,
    hook_point,
    most_tasks,
    projections_task,
    scores_task,
    steered_rows,
    sums_task,
)
from jobs.persona.resolve import IDS_VERSION, PersonaModel, PersonaSweep
from jobs.persona.side_effects import SideEffectTasks, planned_with
from jobs.persona.spec import POOLINGS
from jobs.persona.tables import FROM_FILE, Phase, vectors_key
from jobs.persona.verdicts import JudgeHere, judgement
from jobs.persona.worker import states_batch_tokens
from jobs.scoring.manifest import append
from jobs.scoring.plan import PlannedTask
from jobs.scoring.workflow import SCORING
from jobs.sweeps.job import DriverPool, Files, Replicas, Workflow
from jobs.sweeps.parts import PartRef
from jobs.sweeps.steps import Stage, Step
from jobs.sweeps.worker import StoredVectors
from jobs.words import count
from steering_core.vectors import SteeringVectors, from_safetensors, to_safetensors
from steersweep.errors import UserError

WRITING = Stage("writing", "answers", "written")
JUDGING = Stage("judging", "answers", "judged")
PROJECTING = Stage("projecting", "answers", "projected")
READING = Stage("reading", "answers", "read")

GroupPhase = tuple[Group, Phase]


class PersonaWorkflow(Workflow):
    """See the module."""

    def __init__(self, sweep: PersonaSweep, output: PersonaOutput, files: Files) -> None:
        self.sweep, self._files, self._storage = sweep, files, output.storage
        self.stored = output.parts
        self.is_read_only = sweep.ids < IDS_VERSION
        self._judge = sweep.spec.judge.open(
            [trait.trait for trait in sweep.traits.values()], sweep.device
        )
        self._scorer: Scorer | None = None
        self._groups = [Group(model, trait) for model in sweep.models for trait in sweep.traits]
        self._parts = Parts(cells=[*cells_of(sweep)], rows_per_task=sweep.rows_per_task)
        self._rows: dict[GroupPhase, list[Asked]] = {}
        for group in self._groups:
            if self._is_contrasted(group):
                self._rows[group, "contrast"] = [*contrast_rows(sweep, *self._names(group))]
            self._rows[group, "steered"] = [*steered_rows(sweep, *self._names(group))]
        self._parts.num_rows = {key: len(rows) for key, rows in self._rows.items()}
        self._vectors: dict[Group, dict[str, SteeringVectors]] = {}
        self._answered: dict[str, list[tuple[Group, Phase, Task]]] = {}
        # By table, and in each by the id of the part of answers that they write or follow from.
        # Made once: a task's id covers digests, and every part that is there asks for its task.
        self._tasks: dict[tuple[str, GroupPhase], dict[str, Task]] = {}
        self._waiting: dict[tuple[str, GroupPhase], set[str]] = {}
        self._of_model: dict[str, list[tuple[str, str, StoredVectors]]] = {}
        self._told_slow: set[str] = set()
        self._output = output
        self._added: list[PlannedTask] = []
        self.side_effects = self._plan_side_effects()

    def _plan_side_effects(self) -> SideEffectTasks | None:
        """The tasks of data sets; those that the output has no plan for yet are noted."""
        measuring = self.sweep.measuring
        if measuring is None:
            return None
        tokens = states_batch_tokens(self.sweep.spec.compute, self.sweep.device)
        known, self._added = planned_with(measuring, self._output.planned, tokens)
        self.is_settled = not self._added
        self._parts.side_effects = [task.plan_id for task in [*known, *self._added]]
        return SideEffectTasks(measuring, [*known, *self._added])

    # -- what there is to say -------------------------------------------------------------------

    def totals(self) -> Mapping[Stage, int]:
        """See ``Workflow``."""
        if self.is_read_only:
            return {WRITING: 0}
        num_answers = sum(self._parts.num_rows.values())
        side_effects = self.side_effects
        return {
            **dict.fromkeys((WRITING, JUDGING, PROJECTING), num_answers),
            **({} if side_effects is None else {SCORING: side_effects.num_rows}),
        }

    def most_tasks(self) -> int:
        """See ``Workflow``."""
        return max(most_tasks(self.sweep), len(self._parts.side_effects))

    def headlines(self) -> Sequence[str]:
        """See ``Workflow``."""
        sweep = self.sweep
        if self.is_read_only:
            uri = self._storage.uri
            return [f"{uri} is finished; an earlier version of steersweep computed it"]
        grid = sweep.spec.steering
        num_cells = len(grid.layers) * len(grid.coeffs) * len(grid.positions)
        return [
            f"{count(len(sweep.models), 'model')} x {count(len(sweep.traits), 'trait')} x "
            f"{count(num_cells, 'cell')}; judge: {sweep.spec.judge.kind}",
            *self._headline_of_sets(),
            *(
                f"layer {layer} is {hook_point(layer)}: ActivationSteerer(layer={layer - 1}), row "
                f"{layer} of a persona_vectors file"
                for layer in grid.layers
            ),
        ]

    def _headline_of_sets(self) -> list[str]:
        if self.side_effects is None:
            return []
        sets = count(len(self.sweep.measured), "data set")
        return [f"side effects on {sets}: {count(self.side_effects.num_rows, 'row')}"]

    def check(self) -> None:
        """Prove that a judge that is asked from here answers, before anything is written for it."""
        if not self._judge.needs_replica:
            self._judge.check()

    def needs_replicas(self, ready: Sequence[Task]) -> bool:
        """No if only answers are left to judge, here, once all vectors are known.

        Until then, states are read and steered answers written once contrast answers are judged.
        """
        is_judging = all(task.pool == JUDGE_POOL for task in ready)
        is_last = all(self._knows_vectors(model) for model in self.sweep.models)
        return self._judge.needs_replica or not (is_judging and is_last)

    def examples(self) -> pa.Table:
        """See ``Workflow``."""
        return sweep_examples(self.sweep)

    def texts(self) -> Mapping[str, pa.Table]:
        """See ``Workflow``: also those of the data sets of side effects."""
        of_sets = {found.texts_key: found.texts() for found in self.sweep.measured.values()}
        return {**super().texts(), **of_sets}

    def record(self) -> Mapping[str, Any]:
        """See ``Workflow``."""
        return {ROWS_PER_TASK_KEY: self.sweep.rows_per_task}

    def write_plan(self) -> None:
        """Name what is planned, and what is there of it."""
        append(self._output.ledger, self._added, len(self._output.manifest))
        self._write_index()

    def replica_warnings(self, facts: Mapping[str, str]) -> Sequence[str]:
        """Once for each model that does not generate in slots."""
        how = facts.get("answers", "in slots")  # a judge's replica has none
        if how == "in slots" or how in self._told_slow:
            return []
        self._told_slow.add(how)
        return [f"answers are generated {how}; that is many times slower, as nothing is cached"]

    def last_lines(self) -> Sequence[str]:
        """What the judge was asked, and what that cost."""
        scorer = self._scorer
        if scorer is None or not (scorer.usage.num_calls or scorer.usage.num_cached):
            return []
        return [scorer.cost_line()]

    def stop(self) -> None:
        """Ask the judge nothing more; what was asked is still stored, as it may be paid for."""
        if self._scorer is not None:
            self._scorer.stop()

    def pools(self, replicas: Replicas) -> Sequence[Pool | DriverPool]:
        """A pool for each model, and the judge: on replicas of its own, or asked from here."""
        sweep, compute = self.sweep, self.sweep.spec.compute
        tokens = compute.tokens_per_batch
        common = {
            "device": sweep.device,
            "num_threads": compute.num_threads,
            "gpu_share": replicas.share.gpu_share,
            "storage": replicas.storage,
        }
        pools: list[Pool | DriverPool] = [
            Pool(
                name,
                WorkerFactory(
                    "jobs.persona.worker:PersonaWorker",
                    {
                        "source": model.source,
                        "eos_ids": model.eos_ids,
                        "generation": sweep.spec.generation,
                        "certificate": sweep.spec.certificate,
                        "dtype": model.dtype,
                        "tokens_per_batch": None if tokens == "auto" else tokens,
                        "sets": {of: found.rows for of, found in sweep.measured.items()},
                        **common,
                    },
                ),
                replicas.share,
            )
            for name, model in sweep.models.items()
        ]
        if self._judge.needs_replica:
            factory = WorkerFactory(
                "jobs.persona.verdicts:JudgeWorker", {"judge": sweep.spec.judge, **common}
            )
            return [*pools, Pool(JUDGE_POOL, factory, replicas.share)]
        self._scorer = Scorer(self._judge, self._storage)
        return [*pools, DriverPool(JUDGE_POOL, JudgeHere(self._scorer, self._storage))]

    # -- steps ----------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """Contrast answers of each group, or steered ones if the spec brings its vectors."""
        if self.is_read_only:
            return
        for group in self._groups:
            if self._is_contrasted(group):
                tasks = self._answer_tasks(group, "contrast")
                yield self._writing(group, "contrast", tasks, then=True)
        for group in self._groups:
            if not self._is_contrasted(group):
                yield from self._steered(group, {FROM_FILE: self._of_file(group)})
        if self.side_effects is not None:
            for model in self.sweep.models:
                yield Step(SCORING, f"{model}/unsteered", self.side_effects.unsteered(model))

    def _writing(
        self, group: Group, phase: Phase, tasks: Sequence[Task], *, then: bool = False
    ) -> Step:
        follow = partial(self._after_contrast, group, tasks) if then else None
        each = partial(self._after_answers, group, phase)
        return Step(WRITING, f"{group}/{phase}", tasks, each=each, then=follow)

    def _after_answers(self, group: Group, phase: Phase, task: Task) -> Iterator[Step]:
        """A part of answers is there: judge it, and project it if the vectors are known."""
        self._note("answers", (group, phase), task)
        self._answered.setdefault(group.model, []).append((group, phase, task))
        yield self._following(JUDGING, "scores", (group, phase), task, self._scores_task)
        if self._knows_vectors(group.model):
            yield self._projecting(group, phase, task)

    def _after_contrast(self, group: Group, tasks: Sequence[Task]) -> Iterator[Step]:
        """All contrast answers of a group are judged: sum the states of the effective pairs."""
        kept = self._effective(group)
        sums = [
            sums_task(*self._key(group), _ref(task, "answers"), of_part)
            for task in tasks
            if (of_part := [row.row_id for row in task.payload.rows if row.row_id in kept])
        ]
        yield Step(READING, f"{group}/contrast", sums, then=partial(self._after_sums, group, sums))

    def _after_sums(self, group: Group, tasks: Sequence[Task]) -> Iterator[Step]:
        sums = [read_part(self._storage, task.parts["sums"], task.id) for task in tasks]
        yield from self._steered(group, mean_differences(pa.concat_tables(sums), group))

    def _steered(self, group: Group, found: Mapping[str, SteeringVectors]) -> Iterator[Step]:
        """The vectors of a group are known: write its steered answers."""
        self._vectors[group] = dict(found)
        for pooling, vectors in found.items():
            key = vectors_key(*self._key(group), pooling)
            if not self._has_stored(key, vectors):
                data = to_safetensors(vectors, self._provenance(group, pooling))
                self._files.replace(key, data)
        self._parts.vectors[group] = vectors_key(*self._key(group), self._steers(group))
        self._write_index()
        # Before the answers that follow: their parts are projected as they come.
        if self._knows_vectors(group.model):
            for other, phase, task in self._answered.get(group.model, []):
                yield self._projecting(other, phase, task)
        yield self._writing(group, "steered", self._answer_tasks(group, "steered"))
        if self.side_effects is not None:
            steers = self._steers(group)
            key = vectors_key(*self._key(group), steers)
            yield Step(SCORING, str(group), self.side_effects.steered(group, key, found[steers]))

    def _projecting(self, group: Group, phase: Phase, answers: Task) -> Step:
        make = self._projections_task
        return self._following(PROJECTING, "projections", (group, phase), answers, make)

    def _following(
        self,
        stage: Stage,
        table: str,
        key: GroupPhase,
        answers: Task,
        make: Callable[[Group, Phase, Task], Task],
    ) -> Step:
        """What makes a part of ``table`` from a part of answers."""
        if (table, key) not in self._tasks:
            written = self._tasks["answers", key]
            self._plan(table, key, {of.id: make(*key, of) for of in written.values()})
        group, phase = key
        task = self._tasks[table, key][answers.id]
        return Step(stage, f"{group}/{phase}", [task], each=partial(self._after_part, table, key))

    def _after_part(self, table: str, key: GroupPhase, task: Task) -> Iterable[Step]:
        self._note(table, key, task)
        return ()

    def _plan(self, table: str, key: GroupPhase, tasks: dict[str, Task]) -> None:
        self._tasks[table, key] = tasks
        self._waiting[table, key] = {task.id for task in tasks.values()}

    def _note(self, table: str, key: GroupPhase, task: Task) -> None:
        """A part is there; with the last one of its group and phase, the index names them all."""
        waiting = self._waiting[table, key]
        waiting.discard(task.id)
        if not waiting:
            every = self._tasks[table, key].values()
            getattr(self._parts, table)[key] = [_ref(of, table) for of in every]
            self._write_index()

    def _write_index(self) -> None:
        self._files.replace(INDEX_KEY, self._parts.as_bytes())

    # -- tasks ----------------------------------------------------------------------------------

    def _answer_tasks(self, group: Group, phase: Phase) -> list[Task]:
        vectors = None
        if phase == "steered":
            pooling = self._steers(group)
            steering = self._vectors[group][pooling]
            digests = {layer: steering.digest(layer) for layer in steering.whole}
            vectors = vectors_key(*self._key(group), pooling), digests
        rows = self._rows[group, phase]
        tasks = answer_tasks(self.sweep, *self._names(group), phase, rows, vectors)
        self._plan("answers", (group, phase), {task.id: task for task in tasks})
        return tasks

    def _scores_task(self, group: Group, phase: Phase, answers: Task) -> Task:
        trait = self.sweep.traits[group.trait].trait
        return scores_task(
            group.model,
            trait,
            phase,
            _ref(answers, "answers"),
            self._judge.identity(),
            answers.num_items,
        )

    def _projections_task(self, group: Group, phase: Phase, answers: Task) -> Task:
        ref, of_model = _ref(answers, "answers"), self._vectors_of(group.model)
        return projections_task(*self._key(group), phase, ref, answers.num_items, of_model)

    def _vectors_of(self, model: str) -> list[tuple[str, str, StoredVectors]]:
        """Trait, pooling and vectors of a model, all of whose vectors are known."""
        if model not in self._of_model:
            self._of_model[model] = [
                (
                    group.trait,
                    pooling,
                    StoredVectors(
                        vectors_key(*self._key(group), pooling),
                        {layer: fitted.digest(layer) for layer in fitted.whole},
                    ),
                )
                for group in self._groups
                if group.model == model
                for pooling, fitted in self._vectors[group].items()
            ]
        return self._of_model[model]

    # -- vectors --------------------------------------------------------------------------------

    def _effective(self, group: Group) -> frozenset[str]:
        """The ids of the rows whose pairs pass the filter."""
        judged = {
            row["row_id"]: judgement(row)
            for part in self._parts.scores[group, "contrast"]
            for row in read_part(self._storage, part.key, part.task_id).to_pylist()
        }
        pairs = sorted({row_id.rsplit(".", 1)[0] for row_id in judged})
        positive, negative = (
            [judged[f"{pair}.{polarity}"] for pair in pairs] for polarity in POLARITIES
        )
        found = effective_pairs(positive, negative, self.sweep.spec.filter)
        self._parts.pairs[group] = found
        self._write_index()
        if (warning := check_enough(found, str(group))) is not None:
            warn(warning)
        return frozenset(
            f"{pairs[index]}.{polarity}" for index in found.kept for polarity in POLARITIES
        )

    def _has_stored(self, key: str, vectors: SteeringVectors) -> bool:
        """Whether a file holds these vectors already: a finished output is not written again."""
        try:
            data = self._storage.read(key)
        except ObjectNotFoundError:
            return False
        try:
            stored = from_safetensors(data, key)
        except UserError:  # damaged: it is written again
            return False
        return stored.whole.keys() == vectors.whole.keys() and all(
            stored.digest(layer) == vectors.digest(layer) for layer in vectors.whole
        )

    def _knows_vectors(self, model: str) -> bool:
        """Whether the vectors of all traits of a model are there."""
        return all(group in self._vectors for group in self._groups if group.model == model)

    def _is_contrasted(self, group: Group) -> bool:
        """Whether the group's vectors come from contrasted answers, and not from a file."""
        return self.sweep.traits[group.trait].vectors is None

    def _steers(self, group: Group) -> str:
        """Which of a group's vectors steer."""
        return self.sweep.spec.vectors.pooling if self._is_contrasted(group) else FROM_FILE

    def _of_file(self, group: Group) -> SteeringVectors:
        """The vectors that the spec brings, of the blocks that the model has."""
        file = self.sweep.traits[group.trait].vectors
        assert file is not None, "contrasted"
        for layer in self.sweep.spec.steering.layers:
            point = file.read_point(layer)
            if point not in (None, hook_point(layer)):
                warn(f"{group}: layer {layer} was read at {point}, but steers {hook_point(layer)}")
        num_blocks = self.sweep.models[group.model].facts.num_blocks
        whole = {n: v for n, v in file.vectors.whole.items() if 1 <= n <= num_blocks}
        return SteeringVectors(whole, {})

    def _provenance(self, group: Group, pooling: str) -> dict[str, str]:
        file = self.sweep.traits[group.trait].vectors
        if file is not None:
            return dict(file.provenance)
        model: PersonaModel = self.sweep.models[group.model]
        num_blocks = model.facts.num_blocks
        return {
            "created_by": f"steersweep {__version__}",
            "method": "mean_difference",
            "formula": "mean over effective pairs of (positive - negative), float64 sums",
            "source": "Chen et al. 2025, Persona Vectors",
            "model": self.sweep.spec.models[group.model].path,
            "model_digest": model.facts.digest,
            "dtype": model.dtype,
            "trait": group.trait,
            "pooling": pooling,
            "num_pairs": str(len(self._parts.pairs[group].kept)),
            **{f"read.layer.{n}": str(hook_point(n)) for n in range(1, num_blocks + 1)},
        }

    def _names(self, group: Group) -> tuple[PersonaModel, str]:
        return self.sweep.models[group.model], group.trait

    @staticmethod
    def _key(group: Group) -> tuple[str, str]:
        return group.model, group.trait


def _ref(task: Task, table: str) -> PartRef:
    return PartRef(task.parts[table], task.id)


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
