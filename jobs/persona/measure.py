"""A short measurement of a persona sweep's model on this machine: how long an answer takes.

With all slots taken, an answer of T tokens costs its share of a prompt's forward and of T steps. A
step takes longer the more columns of the cache it reads, so it is timed behind short and behind
long prompts, and the mean of both is taken. No timed answer ends early.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import transformers

from jobs.advice import advised
from jobs.persona.judges import Answer, Scorer
from jobs.persona.plan import Asked
from jobs.persona.resolve import PersonaModel, PersonaSweep
from jobs.persona.tables import Phase
from jobs.persona.traits import Trait
from jobs.persona.worker import generation_row, states_batch_tokens
from jobs.sweeps.here import torch_threads
from steering_core.answer_check import check_answer
from steering_core.generation import Generated, GenerationRow, generate
from steering_core.generation_probe import slots_problem
from steering_core.models import LoadedModel, load_model
from steering_core.reference_generation import reference_generate
from steering_core.response_states import AnsweredPrompt, collect_response_states
from steering_core.sampling import Sampling
from steering_core.timing import seconds
from steering_core.vectors import SteeringVectors

_FEW, _MANY = 4, 24
"""New tokens of the two timed runs, whose difference is the steps' alone."""
_JUDGED = 8


@dataclass(frozen=True, slots=True)
class PhaseRates:
    """What answers of a phase take.

    Attributes:
        num_slots: that were taken.
        prompts_s: until all slots have begun.
        step_s: of one token in all slots, in the middle of the longest answer.
        check_s_per_token: of recomputing an answer for the certificate, prompt included.
        state_s_per_token: of reading states, prompt included.
    """

    num_slots: int
    prompts_s: float
    step_s: float
    check_s_per_token: float
    state_s_per_token: float

    def writing_s(
        self, num_rows: int, num_new: float, num_prompt: float, num_checked: int
    ) -> float:
        """Seconds of a task of so many answers, each of ``num_new`` tokens."""
        rounds = max(1.0, num_rows / self.num_slots)
        checking = num_checked * (num_prompt + num_new) * self.check_s_per_token
        return rounds * (self.prompts_s + num_new * self.step_s) + checking

    def reading_s(self, num_rows: int, num_new: float, num_prompt: float) -> float:
        """Seconds in which the states of so many answers are read once."""
        return num_rows * (num_prompt + num_new) * self.state_s_per_token


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a model's measurement.

    Attributes:
        phases: by ``contrast`` and ``steered``, those of which answers are left.
        took_s: of the whole measurement, loading included.
    """

    phases: Mapping[Phase, PhaseRates]
    took_s: float


@advised()
def measure(
    sweep: PersonaSweep,
    model: PersonaModel,
    rows: Mapping[Phase, Sequence[Asked]],
    budget_s: float,
) -> Measured:
    """Time generation, the certificate's check and reading states, on prompts of the sweep.

    Sets torch's number of threads to that of a replica, and puts it back.

    Args:
        rows: answers that are left, of one task of each phase.
        budget_s: seconds to aim at, without loading; what has begun is finished.

    Raises:
        UserError: the model cannot be loaded.
    """
    started = time.monotonic()
    transformers.logging.disable_progress_bar()
    with torch_threads(sweep.spec.compute.num_threads):
        loaded = load_model(model.source, device=sweep.device, dtype=model.dtype)
        timer = _Timer(sweep, loaded, budget_s / max(1, len(rows)))
        found = {phase: timer.rates(of) for phase, of in rows.items()}
    return Measured(found, time.monotonic() - started)


def measure_judge(sweep: PersonaSweep, trait: Trait, answers: Sequence[Answer]) -> float:
    """Seconds of one query of a judge that holds a model; 0 for other judges.

    Args:
        answers: of the greatest length.

    Raises:
        UserError: the judge cannot be loaded.
    """
    with torch_threads(sweep.spec.compute.num_threads):
        judge = sweep.spec.judge.open([trait], sweep.device)
        if not judge.needs_replica:
            return 0.0
        judge.check()
        scorer, begun = Scorer(judge), time.perf_counter()
        scorer.score(trait, answers[:_JUDGED])
        return (time.perf_counter() - begun) / max(1, scorer.usage.num_calls)


class _Timer:
    """Times one loaded model."""

    def __init__(self, sweep: PersonaSweep, model: LoadedModel, budget_s: float) -> None:
        self._spec, self._model, self._budget_s = sweep.spec, model, budget_s
        self._in_slots = slots_problem(model) is None
        generation = sweep.spec.generation
        self._most_new = generation.max_new_tokens
        self._num_slots = generation.num_slots(model.device.type) if self._in_slots else 1
        self._sampling = Sampling(
            max_new_tokens=1,
            eos_ids=(),  # every answer runs to its end
            greedy=generation.greedy,
            temperature=generation.temperature,
            top_p=generation.top_p,
        )

    def rates(self, asked: Sequence[Asked]) -> PhaseRates:
        """What answers like these take."""
        rows = self._rows(asked[: self._num_slots])
        first_s = self._seconds(rows, 1)  # loads kernels, too
        first_s = min(first_s, self._seconds(rows, 1))
        few, many = self._num_new(first_s)
        few_s, many_s = (self._seconds(rows, num) for num in (few, many))
        step_s = max(many_s - few_s, 0.1 * many_s) / (many - few)
        prompts_s = max(0.0, few_s - few * step_s)
        if self._most_new > 2 * many:
            late = [self._behind_answer(row, self._most_new - many) for row in rows]
            late_s = self._seconds(late, many) - self._seconds(late, few)
            step_s = (step_s + max(step_s, late_s / (many - few))) / 2
        ids = tuple(np.resize(rows[0].prompt_ids, self._most_new).tolist())
        answer = Generated(ids, "length")
        num_tokens = len(rows[0].prompt_ids) + len(ids)
        check_s = seconds(
            lambda: check_answer(self._model, rows[0], answer, self._sampling), self._model.device
        )
        return PhaseRates(
            num_slots=len(rows),
            prompts_s=prompts_s,
            step_s=step_s,
            check_s_per_token=check_s / num_tokens,
            state_s_per_token=self._states_s(rows, ids),
        )

    def _num_new(self, first_s: float) -> tuple[int, int]:
        """New tokens of the two runs: fewer if one token takes long."""
        is_slow = first_s * (2 * _MANY + 2 * _FEW) > self._budget_s
        many = 4 if is_slow else _MANY
        many = max(2, min(many, self._most_new))
        return max(1, min(_FEW, many // 2)), many

    def _seconds(self, rows: Sequence[GenerationRow], num_new: int) -> float:
        sampling = replace(self._sampling, max_new_tokens=num_new)

        def write() -> None:
            if self._in_slots:
                generate(self._model, rows, sampling, rows_at_once=len(rows))
            else:
                for row in rows:
                    reference_generate(self._model, row, sampling)

        return seconds(write, self._model.device)

    def _states_s(self, rows: Sequence[GenerationRow], answer: tuple[int, ...]) -> float:
        """Seconds of reading states, per token of a prompt and its answer."""
        tokens = states_batch_tokens(self._spec.compute, self._model.device.type)
        each = len(rows[0].prompt_ids) + len(answer)
        chosen = [AnsweredPrompt(r.prompt_ids, answer) for r in rows[: max(1, tokens // each)]]
        num = sum(len(of.prompt_ids) + len(of.answer_ids) for of in chosen)
        took = seconds(
            lambda: collect_response_states(self._model, chosen, tokens), self._model.device
        )
        return took / num

    def _rows(self, asked: Sequence[Asked]) -> list[GenerationRow]:
        """Rows to write, steered with vectors that change next to nothing."""
        width = int(self._model.layout.config.hidden_size)
        layers = {row.layer for row in asked if row.layer is not None}
        tiny = np.full(width, 1e-6, np.float32)
        vectors = SteeringVectors(dict.fromkeys(layers, tiny), {}) if layers else None
        return [generation_row(row, vectors) for row in asked]

    @staticmethod
    def _behind_answer(row: GenerationRow, num: int) -> GenerationRow:
        """The row as it is when so much of its answer is there."""
        more = tuple(np.resize(row.prompt_ids, num).tolist())
        return replace(row, prompt_ids=row.prompt_ids + more)
