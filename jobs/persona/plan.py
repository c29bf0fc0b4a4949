"""Which answers are to be written, and the tasks that write them and read their states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, product
from typing import Any, Literal

from cluster.tasks import Task
from jobs.identity import digest, float_text
from jobs.persona.judges.prompts import COHERENCE_PROMPT
from jobs.persona.resolve import PersonaModel, PersonaSweep
from jobs.persona.tables import Phase, part_key
from jobs.persona.traits import Trait
from jobs.sweeps.parts import PartRef
from jobs.sweeps.worker import StoredVectors
from steering_core.hook_points import HookPoint
from steering_core.sampling import row_seed
from steering_core.steerer import GenerationPositions

Polarity = Literal["positive", "negative"]
POLARITIES: tuple[Polarity, ...] = ("positive", "negative")
JUDGE_POOL = "judge:"
"""Of the judge, on replicas or in the driver; no model can have that name."""


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
        """Where it is steered; None if it is not."""
        return None if self.layer is None else str(hook_point(self.layer))


def hook_point(layer: int) -> HookPoint:
    """What the 1-based ``layer`` of a spec means: ``blocks.{layer - 1}.resid_post``."""
    return HookPoint(layer - 1, "resid_post")


@dataclass(frozen=True)
class AnswersPayload:
    """Answers to write.

    Attributes:
        vectors: that steer them; None if nothing does.
    """

    task_id: str
    rows: tuple[Asked, ...]
    vectors: StoredVectors | None = None


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
        vectors: (trait, pooling, vectors) of each file.
    """

    answers: PartRef
    vectors: tuple[tuple[str, str, StoredVectors], ...]


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
    """Answers to every question at every cell; those that nothing steers come first, and once.

    Adding 0 times a vector changes nothing at any layer, so coefficient 0 has one answer for all
    layers and positions, whose own are None. Tables show it at each cell (``summary``).
    """
    grid, is_old = sweep.spec.steering, sweep.ids == 1
    if not is_old and 0 in grid.coeffs:
        for q, rollout, common in _steered_questions(sweep, model, trait):
            yield Asked(row_id=f"q{q}.r{rollout}.c0", coeff=0.0, **common)
    for q, rollout, common in _steered_questions(sweep, model, trait):
        for layer, coeff, positions in product(
            grid.layers, map(float, grid.coeffs), grid.positions
        ):
            if coeff == 0 and not is_old:
                continue
            text = f"{coeff:g}" if is_old else float_text(coeff)
            yield Asked(
                row_id=f"q{q}.r{rollout}.L{layer}.c{text}.{positions}",
                layer=layer,
                coeff=coeff,
                positions=positions,
                **common,
            )


def _steered_questions(
    sweep: PersonaSweep, model: PersonaModel, trait: str
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(Question, rollout, what its answers have in common over all cells)."""
    spec, questions = sweep.spec, sweep.traits[trait].steered_questions
    for (q, question), rollout in product(enumerate(questions), range(spec.steering.rollouts)):
        yield (
            q,
            rollout,
            {
                "question_index": q,
                "question": question,
                "prompt_ids": model.prompts[question, None].token_ids,
                "rollout": rollout,
                "seed": row_seed(spec.generation.seed, trait, "steered", q, rollout),
            },
        )


def cells_of(sweep: PersonaSweep) -> list[tuple[int, GenerationPositions]]:
    """Layers and positions that are steered: where tables repeat coefficient 0."""
    return list(product(sweep.spec.steering.layers, sweep.spec.steering.positions))


def answer_tasks(
    sweep: PersonaSweep,
    model: PersonaModel,
    trait: str,
    phase: Phase,
    rows: Sequence[Asked],
    vectors: tuple[str, Mapping[int, str]] | None = None,
) -> list[Task]:
    """The tasks that write the answers of a model and a trait.

    Unsteered answers of the steered phase have tasks of their own: they depend on no vector, and
    stay when the grid grows.

    Args:
        vectors: storage key and digests of what steers them.
    """
    key, digests = vectors or (None, {})
    tasks = []
    for shard in _shards(rows, rows_per_task(sweep)):
        layers = {row.layer for row in shard} - {None}
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
        steering = StoredVectors(key, used) if layers and key is not None else None
        payload = AnswersPayload(task_id, shard, steering)
        parts = {"answers": part_key("answers", model.name, trait, phase, task_id)}
        num = len(shard)
        tasks.append(Task(task_id, model.name, float(num), parts, payload, num_items=num))
    return tasks


def _shards(rows: Sequence[Asked], size: int) -> Iterator[tuple[Asked, ...]]:
    """Rows of at most ``size``, in order; steered and unsteered ones apart."""
    for _, group in groupby(rows, key=lambda row: row.layer is None):
        while shard := tuple(islice(group, size)):
            yield shard


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
    size, model = rows_per_task(sweep), next(iter(sweep.models.values()))

    def num_tasks(rows: Iterator[Asked]) -> int:
        return sum(1 for _ in _shards(list(rows), size))

    of_contrast = sum(
        num_tasks(contrast_rows(sweep, model, name))
        for name, trait in sweep.traits.items()
        if trait.vectors is None
    )
    of_steering = sum(num_tasks(steered_rows(sweep, model, name)) for name in sweep.traits)
    return len(sweep.models) * max(of_contrast, of_steering)


def rows_per_task(sweep: PersonaSweep) -> int:
    """The most answers of a task."""
    size = sweep.spec.compute.examples_per_task
    return sweep.rows_per_task if size == "auto" else size


def scores_task(
    model: str,
    trait: Trait,
    phase: Phase,
    answers: PartRef,
    judge: Mapping[str, object],
    num_rows: int,
) -> Task:
    """The task that judges a part's answers.

    Args:
        judge: its identity.
        num_rows: answers of the part.
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
    payload = ScoresPayload(answers, trait)
    return Task(task_id, JUDGE_POOL, float(num_rows), parts, payload, num_items=num_rows)


def sums_task(model: str, trait: str, answers: PartRef, kept: Sequence[str]) -> Task:
    """The task that sums the states of a part's kept answers."""
    payload = SumsPayload(answers, tuple(kept))
    task_id = digest({"table": "sums", "answers": answers.task_id, "kept": list(kept)})
    parts = {"sums": part_key("sums", model, trait, "contrast", task_id)}
    num = len(kept)
    return Task(task_id, model, float(num), parts, payload, num_items=num, is_urgent=True)


def projections_task(
    model: str,
    trait: str,
    phase: Phase,
    answers: PartRef,
    num_rows: int,
    vectors: Sequence[tuple[str, str, StoredVectors]],
) -> Task:
    """The task that projects the states of a part's answers on every vector of its model."""
    task_id = digest(
        {
            "table": "projections",
            "answers": answers.task_id,
            "vectors": [[trait, pooling, of.digests] for trait, pooling, of in vectors],
        }
    )
    parts = {"projections": part_key("projections", model, trait, phase, task_id)}
    payload = ProjectionsPayload(answers, tuple(vectors))
    return Task(task_id, model, float(num_rows), parts, payload, num_items=num_rows)
