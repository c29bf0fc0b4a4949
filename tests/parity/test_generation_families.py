"""Every model family: answers written in slots against one row at a time, or refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from steering_core import generation_probe
from steering_core.generation import Generated, GenerationRow, generate
from steering_core.generation_probe import slots_problem
from steering_core.reference_generation import reference_generate
from steering_core.sampling import Sampling
from steering_core.steerer import GENERATION_POSITIONS
from tests.support.generation import VOCAB, model_of, row_of
from tests.support.golden import on_cpu
from tests.support.tiny_models import FAMILIES, NOT_PACKED, random_model

GREEDY = Sampling(max_new_tokens=5, eos_ids=(), greedy=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_in_bfloat16_does_not_decide_who_can_use_slots(family: str) -> None:
    model = on_cpu(random_model(family, VOCAB, seed=1), family)
    model.module.to(torch.bfloat16)
    problem = slots_problem(replace(model, dtype=torch.bfloat16))
    assert (problem is None) == (family not in NOT_PACKED), problem
    if family == "gpt_neo":
        assert re.fullmatch(
            r"token \d of a trial answer is less likely than the slow path's by [\d.]+ in logits, "
            r"and [\d.]+ is allowed in bfloat16",
            str(problem),
        )


@pytest.mark.parametrize(
    ("dtype", "gap", "agrees"),
    [
        (
            torch.bfloat16,
            0.25,
            True,
        ),  # two steps of bfloat16 at 24, and a tenth of the spread is less
        (torch.bfloat16, 2.0, False),
        (torch.float16, 0.25, False),
        (torch.float16, 0.04, True),
        (torch.float32, 0.04, False),
        (torch.float32, 0.0001, True),
    ],
)
def test_a_tie_within_rounding_is_no_difference(
    dtype: torch.dtype, gap: float, agrees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of a spread of 1 around 20, of which the two likeliest are `gap` apart."""
    logits = 20 + torch.linspace(-1.7, 1.7, 300)
    logits[[7, 8]] = torch.tensor([24.0, 24.0 - gap])
    ours, theirs = (Generated(tokens, "length") for tokens in ((5, 8, 1), (5, 7, 2)))
    monkeypatch.setattr(generation_probe, "reference_generate", lambda *_: theirs)
    monkeypatch.setattr(generation_probe, "last_logits", lambda *_: logits[None])
    model = replace(model_of("llama"), dtype=dtype)
    problem = generation_probe._difference(model, GenerationRow((1, 2)), ours, GREEDY)
    assert (problem is None) == agrees, problem


def test_a_full_device_says_nothing_about_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generation_probe, "generate", full)
    with pytest.raises(torch.OutOfMemoryError):
        slots_problem(model_of("llama"))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_written_in_slots_or_not_at_all(family: str) -> None:
    """Those that cannot run as trees cannot: a mask and position ids are all that a slot has."""
    model = model_of(family)
    assert (slots_problem(model) is None) == (family not in NOT_PACKED)
    if family in NOT_PACKED:
        return
    rows = [row_of(n, GENERATION_POSITIONS[n % 3]) for n in range(7)]
    found = generate(model, rows, GREEDY, rows_at_once=3)
    assert found == [reference_generate(model, row, GREEDY) for row in rows]
    unsteered = [reference_generate(model, replace(r, steering=None), GREEDY) for r in rows]
    assert found != unsteered
