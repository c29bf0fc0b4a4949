"""``steersweep verify`` of a persona sweep: drawn answers held against the plain forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import transformers

from cluster.parts import read_part
from cluster.storage import Storage
from jobs.console import detail, print_table, say, warn
from jobs.persona.certifier import answer_tolerance
from jobs.persona.index import Group, Parts
from jobs.persona.output import PersonaOutput
from jobs.persona.plan import Asked, contrast_rows, steered_rows
from jobs.persona.resolve import PersonaModel, PersonaSweep
from jobs.persona.tables import Phase
from jobs.persona.worker import generation_row, sampling_of
from jobs.scoring.verify import verified_rows
from jobs.sweeps.parts import PartRef
from jobs.sweeps.recorded import recorded_sweep
from steering_core.answer_check import AnswerCheck, check_answer
from steering_core.certificate import draw
from steering_core.generation import Generated
from steering_core.models import load_model, load_tokenizer
from steering_core.vectors import SteeringVectors, from_safetensors
from steersweep.errors import UserError

if TYPE_CHECKING:
    from jobs.persona.job import PersonaJob


@dataclass(frozen=True)
class _Verified:
    """What came of one model's answers.

    Attributes:
        other_prompts: answers, by name, whose prompt is not the one that would be asked now.
        worst: the answer that is furthest from the plain pass.
    """

    model: str
    tolerance: float
    checks: tuple[AnswerCheck, ...]
    other_prompts: tuple[str, ...]
    worst: str

    @property
    def furthest(self) -> float:
        return max((check.furthest for check in self.checks), default=0.0)

    @property
    def holds(self) -> bool:
        return not self.other_prompts and self.furthest <= self.tolerance


def verified(job: PersonaJob, output: PersonaOutput, num_rows: int, seed: int) -> dict[str, Any]:
    """Check drawn answers, print the outcome and return it as plain data.

    Reads models and traits from where the run had them, in this process, and writes nothing.

    Args:
        num_rows: answers of each model, over traits and phases, and as many rows of data sets.
        seed: for choosing them.

    Raises:
        UserError: no run there, nothing written, model or traits changed since, or not where they
            were.
    """
    storage = output.storage
    sweep = recorded_sweep(job, output)
    parts = output.index
    if not parts.answers:
        raise UserError(f"{storage.uri} holds no finished answers yet; run the sweep first")
    transformers.logging.disable_progress_bar()
    results = [
        _verify_model(storage, sweep, model, parts, num_rows, seed)
        for model in sweep.models.values()
    ]
    _print(results)
    for result in results:
        if result.other_prompts:
            warn(f"{result.model}: {result.other_prompts[0]} was asked with another prompt")
        worst = f"{result.model}: {result.worst}: a token is {result.furthest:.2g} from the choice"
        (warn if result.furthest > result.tolerance else detail)(worst)
    of_sets: dict[str, Any] = {}
    if sweep.measuring is not None and output.inventory.done:
        rows = verified_rows(storage, sweep.measuring, output.inventory, num_rows, seed)
        of_sets = {"side_effects": rows}
    is_broken = any(of["verdict"] == "broken" for of in of_sets.get("side_effects", ()))
    holds = all(result.holds for result in results) and not is_broken
    return {
        "verdict": "holds" if holds else "broken",
        **of_sets,
        "models": [
            {
                "model": result.model,
                "verdict": "holds" if result.holds else "broken",
                "num_answers": len(result.checks),
                "num_tokens": sum(check.num_tokens for check in result.checks),
                "num_other_choices": sum(check.num_other for check in result.checks),
                "furthest": result.furthest,
                "tolerance": result.tolerance,
                "other_prompts": list(result.other_prompts),
                "worst_answer": result.worst or None,
            }
            for result in results
        ],
    }


def _verify_model(
    storage: Storage,
    sweep: PersonaSweep,
    model: PersonaModel,
    parts: Parts,
    num_rows: int,
    seed: int,
) -> _Verified:
    spec = sweep.spec.generation
    tokenizer = load_tokenizer(model.source)
    loaded = load_model(model.source, device=sweep.device, dtype=model.dtype)
    sampling = sampling_of(spec, loaded, tokenizer, model.eos_ids)
    checks: dict[str, AnswerCheck] = {}
    other_prompts = []
    for group, asked, stored, vectors in _drawn(storage, sweep, model, parts, num_rows, seed):
        name = f"{group}/{asked.row_id}"
        row = generation_row(asked, vectors)
        if list(row.prompt_ids) != stored["prompt_ids"]:
            other_prompts.append(name)
            continue
        answer = Generated(tuple(stored["answer_ids"]), stored["ended_by"])
        checks[name] = check_answer(loaded, row, answer, sampling)
    return _Verified(
        model.name,
        answer_tolerance(model.dtype, sweep.spec.certificate.tolerance),
        tuple(checks.values()),
        tuple(other_prompts),
        max(checks, key=lambda name: checks[name].furthest, default=""),
    )


def _drawn(
    storage: Storage,
    sweep: PersonaSweep,
    model: PersonaModel,
    parts: Parts,
    num_rows: int,
    seed: int,
) -> Iterator[tuple[Group, Asked, Mapping[str, Any], SteeringVectors | None]]:
    """Answers of a model: what was asked, what is stored, and the vectors that steered it."""
    asked = {
        (trait, row.row_id): row for trait in sweep.traits for row in _asked_of(sweep, model, trait)
    }
    by_phase: dict[Phase, list[tuple[Group, PartRef]]] = defaultdict(list)
    for (group, phase), refs in parts.answers.items():
        if group.model == model.name:
            by_phase[phase] += [(group, ref) for ref in refs]
    for phase, of_phase in sorted(by_phase.items()):
        rows = [
            (group, row)
            for group, ref in of_phase
            for row in read_part(storage, ref.key, ref.task_id).to_pylist()
        ]
        for number in draw(
            f"{seed}/{model.name}/{phase}", len(rows), -(-num_rows // len(by_phase))
        ):
            group, stored = rows[number]
            vectors = None
            if phase == "steered":
                key = parts.vectors[group]
                vectors = from_safetensors(storage.read(key), key)
            yield group, asked[group.trait, stored["row_id"]], stored, vectors


def _asked_of(sweep: PersonaSweep, model: PersonaModel, trait: str) -> Iterator[Asked]:
    if sweep.traits[trait].vectors is None:
        yield from contrast_rows(sweep, model, trait)
    yield from steered_rows(sweep, model, trait)


def _print(verified: list[_Verified]) -> None:
    print_table(
        "stored answers against the plain forward pass",
        ["model", "answers", "tokens", "other choices", "furthest", "tolerance", "verdict"],
        [
            [
                result.model,
                f"{len(result.checks):,}",
                f"{sum(check.num_tokens for check in result.checks):,}",
                f"{sum(check.num_other for check in result.checks):,}",
                f"{result.furthest:.2g}",
                f"{result.tolerance:g}",
                "holds" if result.holds else "broken",
            ]
            for result in verified
        ],
    )
    num_other = sum(check.num_other for result in verified for check in result.checks)
    if num_other:
        say(
            "furthest: the smallest change of a probability that makes the plain pass choose the "
            "same token"
        )
