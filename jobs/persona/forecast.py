"""``steersweep plan`` of a persona sweep: answers, tokens and queries; runs and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cluster.storage import Storage
from cluster.tasks import Task
from jobs.console import Verbosity, print_tables, say
from jobs.persona.index import Group, Parts
from jobs.persona.judges.prompts import COHERENCE_PROMPT, fill
from jobs.persona.output import PersonaOutput
from jobs.persona.plan import Asked, answer_tasks, contrast_rows, rows_per_task, steered_rows
from jobs.persona.resolve import IDS_VERSION, PersonaModel, PersonaSweep
from jobs.persona.side_effects import inventory_of, planned_with
from jobs.persona.spec import PersonaSpec
from jobs.persona.status import DONE, Table
from jobs.persona.tables import Phase
from jobs.persona.times import NO_TIMES, LeftTask, Times, times_of
from jobs.persona.worker import states_batch_tokens
from jobs.scoring.forecast.command import Planner
from jobs.scoring.forecast.show import SweepForecast
from jobs.scoring.forecast.show import headline as headline_of_rows
from jobs.sweeps.estimate import PLAN_VERSION, Estimate, PlanOptions
from jobs.sweeps.here import check_gpus_are_here
from jobs.sweeps.same_sweep import check_same_sweep
from jobs.words import count
from steering_core.models import load_tokenizer
from steering_core.vectors import from_safetensors
from steersweep.errors import UserError

if TYPE_CHECKING:
    from jobs.persona.job import PersonaJob


@dataclass(frozen=True)
class PhaseForecast:
    """The answers of one model, trait and phase.

    Attributes:
        num_left: answers in tasks that the output does not hold.
        num_prompt_tokens: of what is left.
        most_new_tokens: of what is left, where no answer ends early.
        num_queries: of the judge, on what is left; two on each answer.
        most_judge_tokens: that they read, by the steered model's tokenizer.
    """

    model: str
    trait: str
    phase: Phase
    num_answers: int
    num_tasks: int
    num_left: int
    num_prompt_tokens: int
    most_new_tokens: int
    num_queries: int
    most_judge_tokens: int


@dataclass(frozen=True)
class PersonaForecast(Estimate):
    """Everything that ``steersweep plan`` tells of a persona sweep.

    Attributes:
        times: None if nothing is left, or for outputs of earlier versions.
        side_effects: of data sets; None if there are none.
        unfinished: what has not been done to all answers that are there: ``judged``, ``projected``.
    """

    sweep: PersonaSweep
    phases: Sequence[PhaseForecast]
    times: Times | None = None
    unfinished: Sequence[str] = ()
    side_effects: SweepForecast | None = None

    def show(self) -> None:
        """See ``Estimate``."""
        _show(self)

    def as_json(self) -> dict[str, Any]:
        """See ``Estimate``."""
        times = self.times
        return {
            "plan_version": PLAN_VERSION,
            "output": self.sweep.spec.output,
            "device": self.sweep.device,
            "phases": [asdict(phase) for phase in self.phases],
            **(NO_TIMES if times is None else times.as_json()),
            **({} if self.side_effects is None else {"side_effects": self.side_effects.as_json()}),
        }


def plan(
    job: PersonaJob,
    spec: PersonaSpec,
    options: PlanOptions,
) -> PersonaForecast:
    """What the sweep has left to do.

    Raises:
        UserError: what ``steersweep run`` would refuse, too.
    """
    if options.device is not None or options.share is not None:
        raise UserError(
            "--device and --share estimate from stated rates, but generation times are only "
            "measured; leave them out, and plan on a machine like those of the run"
        )
    storage = spec.storage_spec().open()
    storage.check_reachable()
    output = PersonaOutput.read(storage)
    sweep = job.resolve(spec, None, output)
    check_same_sweep(job, sweep, output)
    if sweep.ids < IDS_VERSION:
        return PersonaForecast(sweep, list(_finished(output.index)))
    check_gpus_are_here(spec.compute)
    forecasts = list(_forecasts(output, sweep))
    left = [task for _, tasks in forecasts for task in tasks]
    times = times_of(output, sweep, left, options) if left else None
    phases = [phase for phase, _ in forecasts]
    unfinished = list(_unfinished(output.index, phases))
    return PersonaForecast(sweep, phases, times, unfinished, _of_sets(output, sweep, options))


def _of_sets(
    output: PersonaOutput, sweep: PersonaSweep, options: PlanOptions
) -> SweepForecast | None:
    if sweep.measuring is None:
        return None
    tokens = states_batch_tokens(sweep.spec.compute, sweep.device)
    known, added = planned_with(sweep.measuring, output.planned, tokens)
    inventory = inventory_of(output.storage, [*known, *added], output.index)
    return Planner(sweep.measuring, inventory, output.storage, None, options).forecast()


def _unfinished(parts: Parts, phases: Sequence[PhaseForecast]) -> Iterator[str]:
    """By the index, which names the parts of a stage once it has ended."""
    tables: tuple[Table, ...] = ("scores", "projections")
    for table in tables:
        ended = getattr(parts, table)
        if any((Group(of.model, of.trait), of.phase) not in ended for of in phases):
            yield DONE[table]


def _forecasts(
    output: PersonaOutput, sweep: PersonaSweep
) -> Iterator[tuple[PhaseForecast, list[LeftTask]]]:
    """Each phase, with its tasks that are left."""
    for model in sweep.models.values():
        tokenizer = load_tokenizer(model.source)
        for trait, content in sweep.traits.items():
            prompts = (content.trait.eval_prompt, COHERENCE_PROMPT)
            group = Group(model.name, trait)
            for phase, rows in _rows(sweep, model, trait):
                tasks = _tasks(output.storage, sweep, output.index, group, phase, rows)
                left_tasks = _left(output, group, phase, tasks)
                left = [row for task in left_tasks for row in task.rows]
                questions = [fill(prompt, row.question, "") for row in left for prompt in prompts]
                judged = {text: len(tokenizer(text)["input_ids"]) for text in set(questions)}
                new_tokens = len(left) * sweep.spec.generation.max_new_tokens
                forecast = PhaseForecast(
                    model=model.name,
                    trait=trait,
                    phase=phase,
                    num_answers=len(rows),
                    num_tasks=len(tasks),
                    num_left=len(left),
                    num_prompt_tokens=sum(len(row.prompt_ids) for row in left),
                    most_new_tokens=new_tokens,
                    num_queries=len(prompts) * len(left),
                    most_judge_tokens=sum(judged[q] for q in questions) + len(prompts) * new_tokens,
                )
                yield forecast, left_tasks


def _left(
    output: PersonaOutput, group: Group, phase: Phase, tasks: Sequence[Task]
) -> list[LeftTask]:
    """The tasks of a phase that the output does not hold."""
    done = output.parts.done(tasks)
    return [
        LeftTask(group.model, group.trait, phase, task.payload.rows)
        for task in tasks
        if task.id not in done
    ]


def _finished(parts: Parts) -> Iterator[PhaseForecast]:
    """Nothing is left of an output that an earlier version finished."""
    for (group, phase), num_answers in parts.num_rows.items():
        num_tasks = len(parts.answers[group, phase])
        yield PhaseForecast(group.model, group.trait, phase, num_answers, num_tasks, 0, 0, 0, 0, 0)


def _rows(
    sweep: PersonaSweep, model: PersonaModel, trait: str
) -> Iterator[tuple[Phase, list[Asked]]]:
    if sweep.traits[trait].vectors is None:
        yield "contrast", list(contrast_rows(sweep, model, trait))
    yield "steered", list(steered_rows(sweep, model, trait))


def _tasks(
    storage: Storage,
    sweep: PersonaSweep,
    parts: Parts,
    group: Group,
    phase: Phase,
    rows: Sequence[Asked],
) -> list[Task]:
    """The tasks of a phase; steered ones are named after the vectors, once these are there."""
    vectors: tuple[str, Mapping[int, str]] | None = None
    if phase == "steered" and (key := parts.vectors.get(group)) is not None:
        fitted = from_safetensors(storage.read(key), key)
        vectors = key, {layer: fitted.digest(layer) for layer in fitted.whole}
    return answer_tasks(sweep, sweep.models[group.model], group.trait, phase, rows, vectors)


def headline(plan: PersonaForecast) -> str:
    """What is left: ``480 answers, at most about 12 min on 1 replica (cpu), ...``."""
    spec, phases = plan.sweep.spec, plan.phases
    total, left = (
        sum(getattr(phase, name) for phase in phases) for name in ("num_answers", "num_left")
    )
    if not left and plan.unfinished:
        return (
            f"{spec.output} has all {count(total, 'answer')}, which are not all "
            f"{' and '.join(plan.unfinished)} yet."
        )
    if not left:
        return f"Nothing is left to run: {spec.output} has all {count(total, 'answer')}."
    answers = count(total, "answer") if left == total else f"{left:,} of {total:,} answers left"
    times = "" if plan.times is None else f", {plan.times.headline(plan.sweep.device)}"
    queries = sum(phase.num_queries for phase in phases)
    return f"{answers}{times}; {count(queries, 'judge query', 'judge queries')}"


def _show(plan: PersonaForecast) -> None:
    sweep, phases, spec = plan.sweep, plan.phases, plan.sweep.spec
    say(headline(plan), at=Verbosity.QUIET)
    if plan.side_effects is not None:
        words = "Side effects, which the line above leaves out: "
        say(f"{words}{headline_of_rows(plan.side_effects)}", at=Verbosity.QUIET)
    groups: dict[str, list[list[str]]] = {}
    for phase in phases:
        groups.setdefault(f"\n{phase.model}, {phase.trait}", []).append(
            [
                phase.phase,
                f"{phase.num_answers:,}",
                f"{phase.num_left:,}",
                f"{phase.num_prompt_tokens:,}",
                f"{phase.most_new_tokens:,}",
                f"{phase.num_queries:,}",
            ]
        )
    columns = ("phase", "answers", "left", "prompt\ntokens", "new\ntokens", "judge\nqueries")
    print_tables(columns, [*groups.items()], at=Verbosity.VERBOSE)
    tokens = sum(phase.most_judge_tokens for phase in phases)
    if any(phase.num_left for phase in phases):
        num_tasks = sum(phase.num_tasks for phase in phases)
        num_slots = spec.generation.num_slots(sweep.device)
        new_tokens = sum(phase.most_new_tokens for phase in phases)
        say(
            f"At most {count(new_tokens, 'new token')}, in {count(num_tasks, 'task')} of at most "
            f"{count(rows_per_task(sweep), 'answer')} "
            f"(compute.examples_per_task); a replica generates {num_slots:,} at a time "
            "(generation.rows_at_once)."
        )
        cost = "" if spec.judge.is_server else ", which costs nothing"
        say(
            f"The judge is {spec.judge.kind}{cost}; it reads at most {tokens:,} tokens, counted by "
            "the steered model's tokenizer. Stored verdicts are not requested again."
        )
        for line in () if plan.times is None else plan.times.lines():
            say(line)
