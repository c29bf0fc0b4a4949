"""No step of generation waits for the device.

Run on torch's meta device, which has shapes and no values: whatever needs a value on the host
raises. To the code it is an accelerator, as it is not the CPU.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from steering_core import generation, sampling
from steering_core.generation import GenerationCounts, GenerationRow, generate
from steering_core.sampling import Sampling
from tests.support.generation import FAMILIES, VOCAB, prompt_of, row_of
from tests.support.golden import on_cpu
from tests.support.tiny_models import random_model

META = torch.device("meta")
SAMPLINGS = {
    "greedy": Sampling(3, (0,), greedy=True),
    "sampled": Sampling(3, (0,)),
    "top_p": Sampling(3, (0,), top_p=0.9),
}
# More rows than slots, each operation, and prompts that are shared and that are not.
ROWS = [row_of(n, "response") for n in (2, 3, 4)] + [row_of(n, "all") for n in (3, 5)]
ROWS += [GenerationRow(prompt_of(1, 9), seed=n, max_new_tokens=2) for n in range(2)]


def write_on_meta(family: str, how: Sampling, monkeypatch: pytest.MonkeyPatch) -> GenerationCounts:
    model = on_cpu(random_model(family, VOCAB, seed=3), family)
    model.module.to(META)
    counts = GenerationCounts()
    # The one copy to the host: CUDA starts it at once and is asked for it a step later.
    monkeypatch.setattr(generation, "fetch", lambda tokens: lambda: np.ones(len(tokens), int))
    answers = generate(replace(model, device=META), ROWS, how, rows_at_once=4, counts=counts)
    assert [len(answer.token_ids) for answer in answers] == [3] * 5 + [2] * 2
    return counts


@pytest.mark.parametrize(
    ("family", "how"),
    [*((family, "top_p") for family in FAMILIES), ("llama", "greedy"), ("llama", "sampled")],
)
def test_no_step_waits_for_the_device(
    family: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = write_on_meta(family, SAMPLINGS[how], monkeypatch)
    assert counts.steps >= 5


def test_a_step_that_waits_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_LIKELIEST", 16)
    monkeypatch.setattr(sampling, "_least_kept_by_bisection", sampling._least_kept_by_sorting)
    with pytest.raises(RuntimeError, match="meta"):
        write_on_meta("llama", SAMPLINGS["top_p"], monkeypatch)
