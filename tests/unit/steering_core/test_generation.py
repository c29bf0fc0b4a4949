"""How rows come and go: what is computed, what ends an answer, what is refused.

Counts, no times.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steering_core import generation
from steering_core.generation import Generated, GenerationCounts, GenerationRow, generate
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.sampling import Sampling
from steering_core.slot_cache import whole_columns
from steersweep.errors import UserError
from tests.support.generation import NUM_BLOCKS, WIDTH, model_of, prompt_of, row_of, vector_of

GREEDY = Sampling(max_new_tokens=6, eos_ids=(), greedy=True)
MODEL = "llama"


def run(
    rows: list[GenerationRow], sampling: Sampling = GREEDY, rows_at_once: int = 64
) -> tuple[list[Generated], GenerationCounts]:
    counts = GenerationCounts()
    found = generate(model_of(MODEL), rows, sampling, rows_at_once=rows_at_once, counts=counts)
    return found, counts


def num_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


# What is computed


def test_rows_that_ended_are_replaced_and_not_waited_for() -> None:
    """One long answer beside 40 short ones, in four slots."""
    rows = [GenerationRow(prompt_of(n, 5), max_new_tokens=2) for n in range(40)]
    rows.append(GenerationRow(prompt_of(99, 9), max_new_tokens=30))
    found, counts = run(rows, rows_at_once=4)
    assert [len(answer.token_ids) for answer in found] == [2] * 40 + [30]
    # Three slots write 80 tokens while one writes 30.
    assert counts.steps == 30
    assert counts.slot_steps <= 4 * 30


def test_answers_of_one_length_take_no_more_steps_than_they_need() -> None:
    rows = [GenerationRow(prompt_of(n, 5)) for n in range(32)]
    _, counts = run(rows, rows_at_once=16)
    assert (counts.steps, counts.slot_steps) == (12, 12 * 16)


def test_slots_without_rows_are_given_up_at_the_end() -> None:
    rows = [GenerationRow(prompt_of(n, 5), max_new_tokens=2) for n in range(31)]
    rows.append(GenerationRow(prompt_of(99, 5), max_new_tokens=40))
    _, counts = run(rows, rows_at_once=32)
    assert counts.steps == 40
    # 32 slots for two steps, then 16, then 8.
    assert counts.slot_steps == 2 * 32 + 16 + 37 * 8


@pytest.mark.parametrize("rows_at_once", [6, 24])
def test_a_prompt_runs_once_for_all_rows_that_leave_it_alone(rows_at_once: int) -> None:
    """Six configurations of four prompts of 11 tokens: the last token is a step's."""
    rows = [
        GenerationRow(
            prompt_of(prompt, 11),
            steering=Intervention(HookPoint(c % NUM_BLOCKS, "resid_post"), vector_of(c), 2.0),
            positions="response",
        )
        for c in range(6)
        for prompt in range(4)
    ]
    found, counts = run(rows, rows_at_once=rows_at_once)
    assert counts.prompt_positions == 4 * whole_columns(10)
    assert len({answer.token_ids for answer in found}) > 12
    every, counts = run([replace(row, positions="all") for row in rows], rows_at_once=rows_at_once)
    assert counts.prompt_positions == 24 * whole_columns(10)
    assert every != found


def test_a_prompt_can_be_copied_from_a_slot_that_has_been_free_for_a_while() -> None:
    """Of nine slots one must not be refilled alone: it runs on, free, for three steps."""
    long = [GenerationRow(prompt_of(n, 9), max_new_tokens=4 if n == 0 else 12) for n in range(8)]
    short = [GenerationRow(prompt_of(50, 7), max_new_tokens=n) for n in (1, 5, 6)]
    found, counts = run([*long, *short], rows_at_once=9)
    assert counts.prompt_positions == 9 * whole_columns(8)
    assert found[-3:] == [run([row])[0][0] for row in short]


def test_prompts_run_a_bounded_number_of_tokens_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [GenerationRow(prompt_of(n, 21)) for n in range(8)]
    whole, counts = run(rows)
    assert counts.prompt_forwards == 1
    monkeypatch.setitem(generation._PROMPT_TOKENS_AT_ONCE, "cpu", 60)
    found, counts = run(rows)
    assert counts.prompt_forwards == 4
    assert found == whole


# Ends


def test_an_answer_ends_at_the_first_eos_which_is_not_part_of_it() -> None:
    rows = [row_of(n, "response") for n in range(12)]
    plain, _ = run(rows)
    eos = {answer.token_ids[3] for answer in plain[:8]}
    found, counts = run(rows, replace(GREEDY, eos_ids=(*eos, 9999)), rows_at_once=4)
    for answer, whole in zip(found, plain, strict=True):
        ids = whole.token_ids
        end = next((n for n, token in enumerate(ids) if token in eos), len(ids))
        assert answer.token_ids == ids[:end]
        assert answer.ended_by == ("eos" if end < len(ids) else "length")
    assert counts.slot_steps < 12 * 6


def test_an_answer_may_be_empty() -> None:
    row = GenerationRow(prompt_of(0, 5))
    ((first, *_),) = (answer.token_ids for answer in run([row])[0])
    found, counts = run([row], replace(GREEDY, eos_ids=(first,)))
    assert found == [Generated((), "eos")]
    assert counts.steps == 1


def test_no_rows_no_answers() -> None:
    assert run([])[0] == []


# What is left


def test_the_model_and_the_callers_vectors_are_as_they_were() -> None:
    model = model_of("gemma2")
    attention = model.layout.config._attn_implementation
    rows = [row_of(n, "all") for n in range(4)]
    before = [row.steering.vector.copy() for row in rows if row.steering]
    generate(model, rows, GREEDY)
    for row, vector in zip(rows, before, strict=True):
        assert row.steering is not None
        assert np.array_equal(row.steering.vector, vector)
    assert num_hooks(model.module) == 0
    assert model.layout.config._attn_implementation == attention


def test_no_hook_is_left_when_a_forward_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(MODEL)
    with monkeypatch.context() as broken:
        broken.setattr(model.layout.blocks[2], "forward", lambda *_a, **_k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run([row_of(n, "all") for n in range(4)])
    assert num_hooks(model.module) == 0


def test_the_models_own_generation_config_has_no_say() -> None:
    model = model_of(MODEL)
    rows = [row_of(n, "response") for n in range(4)]
    before, _ = run(rows)
    config = model.module.generation_config
    kept = config.to_dict()
    try:
        config.update(do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=1)
        assert run(rows)[0] == before
    finally:
        config.update(**kept)


def test_a_row_that_overflows_spoils_no_other() -> None:
    """Neither beside it nor behind it in its slot: 0 times a key that is not finite is not 0."""
    rows = [replace(row_of(n, "all"), max_new_tokens=4) for n in range(12)]
    wanted, _ = run(rows, rows_at_once=2)
    huge = Intervention(HookPoint(0, "resid_post"), np.full(WIDTH, 3e38, np.float32), 100.0)
    spoiled = [
        GenerationRow(prompt_of(50 + n, 40), steering=huge, max_new_tokens=4) for n in range(4)
    ]
    found, _ = run([*spoiled, *rows], rows_at_once=2)
    assert found[4:] == wanted


def test_where_memory_is_short_there_are_fewer_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row_of(n, "response", max_new_tokens=2 + n % 5) for n in range(20)]
    wanted, _ = run(rows)
    choose, sizes = generation.choose, []

    def short(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        sizes.append(len(logits))
        if len(logits) > 6:
            raise torch.OutOfMemoryError("full")
        return choose(logits, draws, sampling)

    monkeypatch.setattr(generation, "choose", short)
    assert run(rows, rows_at_once=64)[0] == wanted
    assert [size for size in sizes if size > 6] == [20, 10]
    monkeypatch.setattr(generation, "choose", lambda *_: _raise(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        run(rows)
    assert num_hooks(model_of(MODEL).module) == 0


def _raise(error: Exception) -> None:
    raise error


# What is refused


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt_ids": ()}, "row 1 has an empty prompt"),
        ({"positions": "last"}, "row 1: positions must be one of all, prompt, response"),
        ({"max_new_tokens": 0}, "row 1: max_new_tokens must be at least 1"),
        ({"max_new_tokens": 508}, "row 1 has a prompt of 5 tokens and up to 508 new ones"),
        ({"seed": -1}, "seed must be in"),
        (
            {"steering": Intervention(HookPoint(NUM_BLOCKS, "resid_post"), vector_of(0), 1.0)},
            r"the model has blocks 0\.\.3",
        ),
        (
            {"steering": Intervention(HookPoint(0, "resid_post"), np.ones(3, np.float32), 1.0)},
            r"row 1: the steering vector has shape \(3,\)",
        ),
        (
            {
                "steering": Intervention(
                    HookPoint(0, "resid_post"), vector_of(0), 1.0, positions="candidate"
                )
            },
            "its steering must be of all positions",
        ),
    ],
)
def test_a_row_that_cannot_be_generated_is_refused(changed: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"prompt_ids": prompt_of(1, 5)}
    rows = [GenerationRow(prompt_of(0, 5)), GenerationRow(**(options | changed))]
    with pytest.raises(UserError, match=message):
        run(rows)


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="rows_at_once must be at least 1, got 0"):
        run([], rows_at_once=0)
    with pytest.raises(UserError, match="top_p"):
        run([], replace(GREEDY, top_p=2.0))
