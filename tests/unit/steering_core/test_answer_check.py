"""Answers held against the plain forward, token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steering_core.answer_check import check_answer
from steering_core.reference_generation import reference_generate
from steering_core.sampling import Sampling
from tests.support.generation import model_of, row_of

SAMPLINGS = {
    "greedy": Sampling(max_new_tokens=10, eos_ids=(), greedy=True),
    "sampled": Sampling(max_new_tokens=10, eos_ids=(1, 5, 17), temperature=1.3, top_p=0.95),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_answers_hold_and_anything_else_is_far_from_the_choice(name: str) -> None:
    model, sampling = model_of("gemma2"), SAMPLINGS[name]
    num_tokens, num_other_steering, ends = 0, 0, set()
    for number in range(12):
        row = row_of(number, ("all", "prompt", "response")[number % 3])
        answer = reference_generate(model, row, sampling)
        found = check_answer(model, row, answer, sampling)
        assert (found.num_other, found.furthest) == (0, 0.0)
        num_tokens += found.num_tokens
        ends.add(answer.ended_by)
        assert row.steering is not None
        steering = replace(row.steering, coeff=-3 * row.steering.coeff)
        other = check_answer(model, replace(row, steering=steering), answer, sampling)
        num_other_steering += other.num_other > 0 and other.furthest > 1e-3
        if answer.token_ids:
            # Not the next one: with two tokens alike in probability that could be right.
            changed = (answer.token_ids[0] + 40) % 80
            wrong = replace(answer, token_ids=(changed, *answer.token_ids[1:]))
            found = check_answer(model, row, wrong, sampling)
            assert found.num_other >= 1
            assert found.furthest > 1e-4
    assert num_tokens > 50
    assert num_other_steering > 6
    assert ends == ({"length"} if name == "greedy" else {"length", "eos"})
