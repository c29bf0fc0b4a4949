"""How long what is left of a persona sweep takes, from a short measurement on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.parts import read_part
from jobs.persona.judges import Answer
from jobs.persona.measure import Measured, measure, measure_judge
from jobs.persona.output import PersonaOutput
from jobs.persona.plan import Asked, rows_per_task
from jobs.persona.resolve import PersonaSweep
from jobs.persona.stored import parts_of
from jobs.persona.tables import Phase
from jobs.sweeps.estimate import PlanOptions
from jobs.sweeps.here import num_replicas, why_not_here
from jobs.sweeps.units import amount
from jobs.sweeps.wall_time import (
    LOAD_BYTES_PER_S,
    RAY_START_S,
    REPLICA_START_S,
    busy_seconds,
    startup_seconds,
)
from jobs.words import count, duration
from steering_core.generation import prompt_tokens_at_once
from steering_core.memory import Memory, generation_memory, weights_bytes
from steering_core.models import load_tokenizer
from steering_core.skeleton import Skeleton, read_skeleton
from steersweep.errors import UserError

_QUERIES = 2
"""Of the judge on each answer: the trait, and coherence."""
NO_TIMES: Mapping[str, Any] = {
    "seconds": None,
    "at_most_seconds": None,
    "startup_seconds": None,
    "not_in_seconds": None,
    "num_replicas": None,
    "memory": {},
    "measured": {},
}


@dataclass(frozen=True)
class LeftTask:
    """Answers of one task that are to be written, judged and projected."""

    model: str
    trait: str
    phase: Phase
    rows: Sequence[Asked]

    @property
    def num_prompt(self) -> float:
        """Mean tokens of a prompt."""
        return sum(len(row.prompt_ids) for row in self.rows) / len(self.rows)


@dataclass(frozen=True)
class Times:
    """Times of what is left, and a replica's memory.

    Attributes:
        measured: by model; without those that could not be measured.
        reasons: by model, why it was not measured.
        is_judged_elsewhere: whether a server is asked.
        judge_s: of one query of a local judge; 0 for other judges, None if it was not measured.
        mean_new: by model, tokens of the answers that the output holds.
        memory: by model.
        judge_weights: bytes of a local judge.
        num_replicas_asked: by an option or the spec; None: this machine's room decides.
    """

    tasks: Sequence[LeftTask]
    max_new_tokens: int
    rows_checked: int
    judge_kind: str
    is_judged_elsewhere: bool
    measured: Mapping[str, Measured]
    reasons: Mapping[str, str]
    judge_s: float | None
    mean_new: Mapping[str, float]
    memory: Mapping[str, Memory]
    judge_weights: int
    num_replicas: int
    on_ray: bool

    @property
    def startup_seconds(self) -> float:
        """Until every replica holds its model: an assumption, part of the other times."""
        weights = [memory.weights_bytes for memory in self.memory.values()]
        weights += [self.judge_weights] if self.judge_weights else []
        return startup_seconds(weights, self.num_replicas, on_ray=self.on_ray)

    @property
    def at_most_seconds(self) -> float | None:
        """Wall time if no answer ends before ``max_new_tokens``; None if a rate is not known."""
        return self._wall({})

    @property
    def seconds(self) -> float | None:
        """Wall time if answers are as long as those that are there; None without any."""
        models = {task.model for task in self.tasks}
        return self._wall(self.mean_new) if models <= self.mean_new.keys() else None

    @property
    def replica_seconds(self) -> float | None:
        """What one replica takes for everything at most, without start-up."""
        found = self._task_seconds({})
        return None if found is None else sum(map(sum, found))

    def _wall(self, num_new: Mapping[str, float]) -> float | None:
        found = self._task_seconds(num_new)
        if found is None:
            return None
        return self.startup_seconds + busy_seconds(found, self.num_replicas)

    def _task_seconds(self, num_new: Mapping[str, float]) -> list[list[float]] | None:
        """Of each task's answers: those that vectors are made of, then the steered ones."""
        if self.judge_s is None:
            return None
        found: dict[Phase, list[float]] = {"contrast": [], "steered": []}
        for task in self.tasks:
            if task.model not in self.measured:
                return None
            rates = self.measured[task.model].phases[task.phase]
            new = num_new.get(task.model, float(self.max_new_tokens))
            num = len(task.rows)
            # States of contrast answers are read twice: for the vectors, and for projections.
            num_read = 2 * num if task.phase == "contrast" else num
            found[task.phase].append(
                rates.writing_s(num, new, task.num_prompt, min(num, self.rows_checked))
                + rates.reading_s(num_read, new, task.num_prompt)
                + _QUERIES * num * self.judge_s
            )
        return [*found.values()]

    def headline(self, device: str) -> str:
        """``at most about 12 min on 1 replica (cpu), memory 1.2 GB per replica``."""
        most = self.at_most_seconds
        time = "time unknown" if most is None else f"at most about {duration(most)}"
        memory = amount(max(of.total_bytes for of in self.memory.values()), "B")
        replicas = f"{count(self.num_replicas, 'replica')} ({device})"
        return f"{time} on {replicas}, memory {memory} per replica"

    def lines(self) -> Iterator[str]:
        """What the times are made of, and what is not in them."""
        if self.at_most_seconds is None:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
            yield f"No time is given: {why or 'the judge was not measured'}."
            return
        if self.seconds is not None:
            lengths = ", ".join(f"{num:,.0f}" for num in self.mean_new.values())
            yield (
                f"About {duration(self.seconds)} if answers are as long as those that the output "
                f"holds ({lengths} tokens on average)."
            )
        startup = f"{duration(self.startup_seconds)} of start-up, which is assumed: "
        if self.on_ray:
            startup += f"Ray ({RAY_START_S:.0f} s), a replica ({REPLICA_START_S:.0f} s), "
        startup += f"weights at {amount(LOAD_BYTES_PER_S, 'B')}/s"
        yield (
            f"The time is measured on this machine, one replica at a time. It includes {startup}. "
            f"It does not include {self.not_in_time}."
        )

    @property
    def not_in_time(self) -> str:
        """What the times leave out."""
        asked = f"waiting for the judge ({self.judge_kind}), " if self.is_judged_elsewhere else ""
        return f"{asked}downloads, the report, or replicas that share one machine's memory"

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "seconds": self.seconds,
            "at_most_seconds": self.at_most_seconds,
            "startup_seconds": self.startup_seconds,
            "not_in_seconds": self.not_in_time,
            "num_replicas": self.num_replicas,
            "memory": {
                name: asdict(of) | {"total_bytes": of.total_bytes}
                for name, of in self.memory.items()
            },
            "measured": {
                name: {
                    **asdict(of),
                    "num_new_tokens": self.max_new_tokens,
                    "mean_new_tokens": self.mean_new.get(name),
                }
                for name, of in self.measured.items()
            }
            | ({"judge": {"query_s": self.judge_s}} if self.judge_s else {}),
        }


def times_of(
    output: PersonaOutput, sweep: PersonaSweep, left: Sequence[LeftTask], options: PlanOptions
) -> Times:
    """Measure each model for a few seconds if its weights are here, and a local judge."""
    spec = sweep.spec
    models = dict.fromkeys(task.model for task in left)
    skeletons = {name: read_skeleton(sweep.models[name].source) for name in models}
    measured, reasons = {}, {}
    for name in models:
        found = _measured(sweep, name, skeletons[name], left, options)
        if isinstance(found, Measured):
            measured[name] = found
        else:
            reasons[name] = found
    num_at_once = max(
        1, *(sum(task.phase == phase for task in left) for phase in ("contrast", "steered"))
    )
    room = options.replicas or num_replicas(spec.compute, sweep.device, is_here=True)
    return Times(
        tasks=left,
        max_new_tokens=spec.generation.max_new_tokens,
        rows_checked=spec.certificate.rows_per_task,
        judge_kind=spec.judge.kind,
        is_judged_elsewhere=spec.judge.is_server,
        measured=measured,
        reasons=reasons,
        judge_s=_judge_seconds(sweep, left) if measured else 0.0,
        mean_new=_mean_lengths(output),
        memory={name: _memory(sweep, name, skeletons[name], left) for name in models},
        judge_weights=_judge_weights(sweep),
        num_replicas=max(1, min(room, num_at_once)),
        on_ray=spec.compute.executor == "ray",
    )


def _measured(
    sweep: PersonaSweep,
    name: str,
    skeleton: Skeleton,
    left: Sequence[LeftTask],
    options: PlanOptions,
) -> Measured | str:
    """The measurement, or why there is none."""
    if options.seconds == 0:
        return "not measured (--seconds 0)"
    model = sweep.models[name]
    why = why_not_here(model.source, model.dtype, skeleton, sweep.device)
    if why is not None:
        return f"not measured: {why}"
    rows: dict[Phase, Sequence[Asked]] = {}
    for task in left:  # the last one of a phase is steered, the first one may not be
        if task.model == name and len(task.rows) >= len(rows.get(task.phase, ())):
            rows[task.phase] = task.rows
    try:
        return measure(sweep, model, rows, options.seconds)
    except UserError as error:
        return f"not measured: {error}"


def _judge_seconds(sweep: PersonaSweep, left: Sequence[LeftTask]) -> float | None:
    """Of a query of a local judge; 0 for others; None if the judge cannot be loaded here."""
    task = left[0]
    tokenizer = load_tokenizer(sweep.models[task.model].source)
    num_new = sweep.spec.generation.max_new_tokens
    answers = []
    for row in task.rows:
        ids = (list(row.prompt_ids) * (1 + num_new // len(row.prompt_ids)))[:num_new]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        answers.append(Answer(row.question, text))
    try:
        return measure_judge(sweep, sweep.traits[task.trait].trait, answers)
    except UserError:
        return None


def _judge_weights(sweep: PersonaSweep) -> int:
    model = sweep.spec.judge.local_model
    if model is None:
        return 0
    dtype = "float32" if model.dtype == "auto" else model.dtype
    return weights_bytes(read_skeleton(model.source()), dtype)


def _mean_lengths(output: PersonaOutput) -> dict[str, float]:
    """By model, mean tokens of the answers that are there."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for (group, _), refs in parts_of(output.storage, output.index, "answers").items():
        for ref in refs:
            table = read_part(output.storage, ref.key, ref.task_id)
            lengths[group.model] += [len(ids) for ids in table["answer_ids"].to_pylist()]
    return {model: sum(of) / len(of) for model, of in lengths.items() if of}


def _memory(sweep: PersonaSweep, name: str, skeleton: Skeleton, left: Sequence[LeftTask]) -> Memory:
    """Of a replica while it writes the longest answers."""
    longest = max(len(row.prompt_ids) for task in left if task.model == name for row in task.rows)
    slots = min(sweep.spec.generation.num_slots(sweep.device), rows_per_task(sweep))
    return generation_memory(
        skeleton,
        sweep.models[name].dtype,
        num_slots=slots,
        num_columns=longest + sweep.spec.generation.max_new_tokens,
        num_prompt_tokens=min(slots * longest, max(longest, prompt_tokens_at_once(sweep.device))),
    )
