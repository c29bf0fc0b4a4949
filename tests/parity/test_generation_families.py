"""Every model family: answers written in slots against one row at a time, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steering_core.generation import generate
from steering_core.generation_probe import can_use_slots
from steering_core.reference_generation import reference_generate
from steering_core.sampling import Sampling
from steering_core.steerer import GENERATION_POSITIONS
from tests.support.generation import model_of, row_of
from tests.support.tiny_models import FAMILIES, NOT_PACKED

GREEDY = Sampling(max_new_tokens=5, eos_ids=(), greedy=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_written_in_slots_or_not_at_all(family: str) -> None:
    """Those that cannot run as trees cannot: a mask and position ids are all that a slot has."""
    model = model_of(family)
    assert can_use_slots(model) == (family not in NOT_PACKED)
    if family in NOT_PACKED:
        return
    rows = [row_of(n, GENERATION_POSITIONS[n % 3]) for n in range(7)]
    found = generate(model, rows, GREEDY, rows_at_once=3)
    assert found == [reference_generate(model, row, GREEDY) for row in rows]
    unsteered = [reference_generate(model, replace(r, steering=None), GREEDY) for r in rows]
    assert found != unsteered
