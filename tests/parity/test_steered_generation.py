"""Steered answers of many rows at once against one prompt at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from steering_core.generation import GenerationRow, generate
from steering_core.hook_points import SITES, HookPoint
from steering_core.reference_generation import reference_generate
from steering_core.sampling import Sampling
from steering_core.steerer import GENERATION_POSITIONS, ActivationSteerer
from tests.support.generation import FAMILIES, NUM_BLOCKS, greedy_by_hand, model_of, row_of

NUM_NEW, NUM_ROWS = 12, 20
GREEDY = Sampling(max_new_tokens=NUM_NEW, eos_ids=(), greedy=True)
SAMPLED = Sampling(max_new_tokens=NUM_NEW, eos_ids=(1, 5, 17), temperature=1.3, top_p=0.95)

families = pytest.mark.parametrize("family", FAMILIES)
all_positions = pytest.mark.parametrize("positions", GENERATION_POSITIONS)


def adding(number: int, positions: Any, **changed: Any) -> GenerationRow:
    row = row_of(number, positions, **changed)
    assert row.steering is not None
    return replace(row, steering=replace(row.steering, operation="add"))


@cache
def by_hand(family: str, positions: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Steered and unsteered answers to the rows of the next test, whose sizes share them."""
    model, steered = model_of(family), []
    for row in rows_of_several_lengths(positions):
        s, num = row.steering, row.max_new_tokens
        assert s is not None
        assert num is not None
        point = (s.point.block, s.vector, s.coeff, positions)
        steered.append(greedy_by_hand(model, row.prompt_ids, num, *point))
    rows = rows_of_several_lengths(positions)
    return steered, [greedy_by_hand(model, row.prompt_ids, NUM_NEW) for row in rows]


def rows_of_several_lengths(positions: Any) -> list[GenerationRow]:
    lengths = [3 + 5 * n % (NUM_NEW - 2) for n in range(NUM_ROWS)]
    return [adding(n, positions, max_new_tokens=length) for n, length in enumerate(lengths)]


@families
@all_positions
@pytest.mark.parametrize("rows_at_once", [1, 9, 64])
def test_greedy_answers_are_those_of_a_hook_written_by_hand(
    family: str, positions: Any, rows_at_once: int
) -> None:
    rows = rows_of_several_lengths(positions)
    found = generate(model_of(family), rows, GREEDY, rows_at_once=rows_at_once)
    wanted, unsteered = by_hand(family, positions)
    assert [list(answer.token_ids) for answer in found] == wanted
    assert {answer.ended_by for answer in found} == {"length"}
    changed = [
        list(a.token_ids) != u[: len(a.token_ids)] for a, u in zip(found, unsteered, strict=True)
    ]
    assert sum(changed) > NUM_ROWS / 3, "steering that changes nothing would agree with anything"


@families
def test_all_three_positions_and_all_operations_stand_in_one_batch(family: str) -> None:
    model = model_of(family)
    rows = [row_of(n, GENERATION_POSITIONS[n % 3]) for n in range(NUM_ROWS)]
    rows += [replace(rows[0], steering=None)]
    found = generate(model, rows, GREEDY, rows_at_once=8)
    assert found == [reference_generate(model, row, GREEDY) for row in rows]


@families
def test_every_site_is_steered(family: str) -> None:
    model, rows = model_of(family), []
    for number, site in enumerate((*SITES, *SITES)):
        row = row_of(number, "response")
        assert row.steering is not None
        steering = replace(row.steering, point=HookPoint(number % NUM_BLOCKS, site))
        rows.append(replace(row, steering=steering))
    found = generate(model, rows, GREEDY, rows_at_once=8)
    assert found == [reference_generate(model, row, GREEDY) for row in rows]


@families
def test_sampled_answers_depend_on_no_other_row(family: str) -> None:
    """Other sizes, other orders, other company: the same answers, and those of the slow path."""
    model = model_of(family)
    rows = [row_of(n, GENERATION_POSITIONS[n % 3]) for n in range(NUM_ROWS)]
    found = generate(model, rows, SAMPLED, rows_at_once=7)
    assert {answer.ended_by for answer in found} == {"eos", "length"}
    assert found == [reference_generate(model, row, SAMPLED) for row in rows]
    assert found == generate(model, rows, SAMPLED, rows_at_once=64)
    assert found[::-1] == generate(model, rows[::-1], SAMPLED, rows_at_once=3)
    assert found[4:6] == generate(model, rows[4:6], SAMPLED)
    other = generate(model, [replace(r, seed=r.seed + 1000) for r in rows], SAMPLED)
    assert sum(a != b for a, b in zip(found, other, strict=True)) > NUM_ROWS / 2


@families
@all_positions
def test_coefficient_0_is_no_hook(family: str, positions: Any) -> None:
    model = model_of(family)
    rows = [row_of(n, positions) for n in range(8)]
    zero = [replace(r, steering=replace(r.steering, operation="add", coeff=0.0)) for r in rows]  # type: ignore[type-var]
    none = [replace(r, steering=None) for r in rows]
    found = generate(model, zero, GREEDY, rows_at_once=4)
    assert found == generate(model, none, GREEDY, rows_at_once=4)
    wanted = [greedy_by_hand(model, r.prompt_ids, NUM_NEW) for r in rows]
    assert [list(answer.token_ids) for answer in found] == wanted


@families
@all_positions
def test_the_context_manager_steers_generate_as_the_batch_does(family: str, positions: Any) -> None:
    model = model_of(family)
    rows = [adding(n, positions) for n in range(6)]
    found = generate(model, rows, GREEDY)
    for row, answer in zip(rows, found, strict=True):
        s = row.steering
        assert s is not None
        vector = torch.from_numpy(s.vector)
        with ActivationSteerer(model.module, vector, s.coeff, s.point.block, positions):
            ids = model.module.generate(  # type: ignore[operator]
                torch.tensor([row.prompt_ids]),
                attention_mask=torch.ones(1, len(row.prompt_ids), dtype=torch.long),
                max_new_tokens=NUM_NEW,
                min_new_tokens=NUM_NEW,
                do_sample=False,
                eos_token_id=VOCAB_END,
            )
        assert ids[0, len(row.prompt_ids) :].tolist() == list(answer.token_ids)


VOCAB_END = 10_000
"""No token has this id, so no answer ends early."""


@families
@pytest.mark.parametrize("rows_at_once", [3, 9, 12])
def test_rows_of_one_prompt_share_it_and_answer_as_alone(family: str, rows_at_once: int) -> None:
    model, rows = model_of(family), []
    for number in range(24):
        row = adding(number, GENERATION_POSITIONS[number % 3] if number % 4 == 3 else "response")
        same = row_of(number // 6, "all").prompt_ids
        rows.append(replace(row, prompt_ids=same, max_new_tokens=1 + 5 * number % 11))
    found = generate(model, rows, GREEDY, rows_at_once=rows_at_once)
    assert found == [reference_generate(model, row, GREEDY) for row in rows]
