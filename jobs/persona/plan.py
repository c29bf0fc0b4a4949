"""Which answers are to be written, and the tasks that write them and read their states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from cluster.storage import Storage
from cluster.tasks import Task
from jobs.identity import digest, float_text
from jobs.persona.judges.prompts import COHERENCE_PROMPT
from jobs.persona.resolve import PersonaModel, PersonaSweep
from jobs.persona.tables import Phase, part_key
from jobs.persona.traits import Trait
from steering_core.hook_points import HookPoint
from steering_core.sampling import row_seed
from steering_core.steerer import GenerationPositions

Polarity = Literal["positive", "negative"]
POLARITIES: tuple[Polarity, ...] = ("positive", "negative")
JUDGE_POOL = "judge:local"
"""Of replicas that hold the judge; no model can have that name."""
_ROWS_PER_TASK = 128


@dataclass(frozen=True)
class Asked:
    """One answer to write.

    Attributes:
        row_id: unique among those of its model, trait and phase.
        prompt_ids: the question as the model reads it. Made with the plan, so that a replica asks
            exactly what the task's id covers.
        seed: of its random stream. Cells of a question and rollout share it, so that they differ
            by their steering alone.
    """

    row_id: str
    question_index: int
    question: str
    prompt_ids: tuple[int, ...]
    rollout: int
    seed: int
    system: str | None = None
    instruction: int | None = None
    polarity: Polarity | None = None
    layer: int | None = None
    coeff: float | None = None
    positions: GenerationPositions | None = None

    @property
    def apply(self) -> str | None:
        """Where it is steered."""
        return None if self.layer is None else str(hook_point(self.layer))


def hook_point(layer: int) -> HookPoint:
    """What the 1-based ``layer`` of a spec means: ``blocks.{layer - 1}.resid_post``."""
    return HookPoint(layer - 1, "resid_post")


@dataclass(frozen=True)
class PartRef:
    """A part in storage, and the task that it must belong to."""

    key: str
    task_id: str


@dataclass(frozen=True)
class AnswersPayload:
    """Answers to write.

    Attributes:
        vectors_key: of the vectors that steer them; None where nothing does.
        vector_digests: that each layer's vector must have.
    """

    task_id: str
    rows: tuple[Asked, ...]
    vectors_key: str | None = None
    vector_digests: Mapping[int, str] | None = None


@dataclass(frozen=True)
class ScoresPayload:
    """Answers to be judged."""

    answers: PartRef
    trait: Trait


@dataclass(frozen=True)
class SumsPayload:
    """Answers whose states are summed by polarity."""

    answers: PartRef
    kept: tuple[str, ...]


@dataclass(frozen=True)
class ProjectionsPayload:
    """Answers whose states are projected on vectors.

    Attributes:
        vectors: (trait, pooling, storage key, digest by layer) of each file.
    """

    answers: PartRef
    vectors: tuple[tuple[str, str, str, Mapping[int, str]], ...]


def contrast_rows(sweep: PersonaSweep, model: PersonaModel, trait: str) -> Iterator[Asked]:
    """Answers to every question under every instruction, of both polarities."""
    content, spec = sweep.traits[trait].trait, sweep.spec
    questions = content.questions[: spec.contrast.questions]
    numbers = product(range(len(content.instructions)), range(len(questions)))
    for (i, q), rollout in product(numbers, range(spec.contrast.rollouts)):
        pair = content.instructions[i]
        for polarity in POLARITIES:
            is_positive = polarity == "positive"
            system = content.positive_system(pair) if is_positive else content.negative_system(pair)
            yield Asked(
                row_id=pair_id(i, q, rollout) + "." + polarity,
                question_index=q,
                question=questions[q],
                prompt_ids=model.prompts[questions[q], system].token_ids,
                rollout=rollout,
                seed=row_seed(spec.generation.seed, trait, "contrast", i, q, rollout, polarity),
                system=system,
                instruction=i,
                polarity=polarity,
            )


def pair_id(instruction: int, question: int, rollout: int) -> str:
    """What the row ids of a pair begin with."""
    return f"i{instruction}.q{question}.r{rollout}"


def steered_rows(sweep: PersonaSweep, model: PersonaModel, trait: str) -> Iterator[Asked]:
    """Answers to every question at every cell."""
    spec, questions = sweep.spec, sweep.traits[trait].steered_questions
    grid = spec.steering
    for (q, question), rollout in product(enumerate(questions), range(grid.rollouts)):
        for layer, coeff, positions in product(grid.layers, grid.coeffs, grid.positions):
            text = f"{float(coeff):g}" if sweep.ids == 1 else float_text(float(coeff))
            yield Asked(
                row_id=f"q{q}.r{rollout}.L{layer}.c{text}.{positions}",
                question_index=q,
                question=question,
                prompt_ids=model.prompts[question, None].token_ids,
                rollout=rollout,
                seed=row_seed(spec.generation.seed, trait, "steered", q, rollout),
                layer=layer,
                coeff=float(coeff),
                positions=positions,
            )


def answer_tasks(
    sweep: PersonaSweep,
    model: PersonaModel,
    trait: str,
    phase: Phase,
    rows: Sequence[Asked],
    vectors: tuple[str, Mapping[int, str]] | None = None,
) -> list[Task]:
    """The tasks that write the answers of a model and a trait.

    Args:
        vectors: storage key and digests of what steers them.
    """
    size = _rows_per_task(sweep)
    tasks = []
    for low in range(0, len(rows), size):
        shard = tuple(rows[low : low + size])
        layers = {row.layer for row in shard} - {None}
        key, digests = vectors or (None, {})
        used = {layer: digests[layer] for layer in sorted(digests) if layer in layers}
        task_id = digest(
            {
                "table": "answers",
                "ids": sweep.ids,
                "phase": phase,
                "model": model.identity(),
                "sampling": sweep.sampling_identity(),
                "rows": [_content_of(row, model) for row in shard],
                "vectors": used,
            }
        )
        payload = AnswersPayload(task_id, shard, key, used)
        parts = {"answers": part_key("answers", model.name, trait, phase, task_id)}
        tasks.append(Task(task_id, model.name, float(len(shard)), parts, payload))
    return tasks


def _content_of(row: Asked, model: PersonaModel) -> dict[str, object]:
    """What decides the row's answer and how it is stored, with the prompt's digest for its ids."""
    return {
        "row_id": row.row_id,
        "prompt": model.prompts[row.question, row.system].digest,
        "question_index": row.question_index,
        "question": row.question,
        "rollout": row.rollout,
        "seed": row.seed,
        "system": row.system,
        "instruction": row.instruction,
        "polarity": row.polarity,
        "layer": row.layer,
        "coeff": row.coeff,
        "positions": row.positions,
    }


def most_tasks(sweep: PersonaSweep) -> int:
    """Tasks of the stage that has the most: how many replicas could have something to do."""
    size, model = _rows_per_task(sweep), next(iter(sweep.models.values()))
    of_contrast = [
        sum(1 for _ in contrast_rows(sweep, model, trait))
        for trait in sweep.traits
        if sweep.traits[trait].vectors is None
    ]
    of_steering = [sum(1 for _ in steered_rows(sweep, model, trait)) for trait in sweep.traits]
    most = max(sum(-(-num // size) for num in numbers) for numbers in (of_contrast, of_steering))
    return len(sweep.models) * most


def _rows_per_task(sweep: PersonaSweep) -> int:
    size = sweep.spec.compute.examples_per_task
    return _ROWS_PER_TASK if size == "auto" else size


def scores_task(
    model: str, trait: Trait, phase: Phase, answers: PartRef, judge: Mapping[str, object]
) -> Task:
    """The task that judges a part's answers.

    Args:
        judge: its identity.
    """
    task_id = digest(
        {
            "table": "scores",
            "answers": answers.task_id,
            "judge": dict(judge),
            "eval_prompt": trait.eval_prompt,
            "coherence_prompt": COHERENCE_PROMPT,
        }
    )
    parts = {"scores": part_key("scores", model, trait.name, phase, task_id)}
    return Task(task_id, JUDGE_POOL, 1.0, parts, ScoresPayload(answers, trait))


def sums_task(model: str, trait: str, answers: PartRef, kept: Sequence[str]) -> Task:
    """The task that sums the states of a part's kept answers."""
    payload = SumsPayload(answers, tuple(kept))
    task_id = digest({"table": "sums", "answers": answers.task_id, "kept": list(kept)})
    parts = {"sums": part_key("sums", model, trait, "contrast", task_id)}
    return Task(task_id, model, float(len(kept)), parts, payload)


def projections_task(
    model: str,
    trait: str,
    phase: Phase,
    answers: PartRef,
    num_rows: int,
    vectors: Sequence[tuple[str, str, str, Mapping[int, str]]],
) -> Task:
    """The task that projects the states of a part's answers on every vector of its model."""
    task_id = digest(
        {
            "table": "projections",
            "answers": answers.task_id,
            "vectors": [[trait, pooling, digests] for trait, pooling, _, digests in vectors],
        }
    )
    parts = {"projections": part_key("projections", model, trait, phase, task_id)}
    payload = ProjectionsPayload(answers, tuple(vectors))
    return Task(task_id, model, float(num_rows), parts, payload)


def missing(storage: Storage, tasks: Sequence[Task]) -> list[Task]:
    """The tasks of which storage lacks a part."""
    places = {key.rsplit("/", 1)[0] + "/" for task in tasks for key in task.parts.values()}
    there = {entry.key for place in sorted(places) for entry in storage.list(place)}
    return [task for task in tasks if not there.issuperset(task.parts.values())]
