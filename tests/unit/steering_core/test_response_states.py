"""States of answers against one row at a time and numpy's own means."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from steering_core.response_states import AnsweredPrompt, collect_response_states
from steersweep.errors import UserError
from tests.support.generation import FAMILIES, NUM_BLOCKS, WIDTH, model_of, prompt_of

TOLERANCE = 1e-5


def rows_of(lengths: list[tuple[int, int]]) -> list[AnsweredPrompt]:
    return [
        AnsweredPrompt(prompt_of(n, prompt), prompt_of(100 + n, answer))
        for n, (prompt, answer) in enumerate(lengths)
    ]


LENGTHS = [(7, 5), (1, 1), (20, 0), (3, 30), (12, 1), (5, 0), (25, 9)]


def copy_of(family: str) -> Any:
    return copy.deepcopy(model_of(family).module)


def direct(family: str, row: AnsweredPrompt) -> np.ndarray:
    """Response mean, prompt mean, prompt last [3, L, D], from the model's own hidden states.

    Those of the last block are taken at its output: the model's are behind the final norm.
    """
    # A copy: asked for hidden states, transformers puts hooks of its own on a model for good.
    module, left = copy_of(family), []
    module.model.layers[-1].register_forward_hook(
        lambda _m, _a, out: left.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.inference_mode():
        ids = torch.tensor([row.prompt_ids + row.answer_ids])
        hidden = module(ids, output_hidden_states=True, use_cache=False).hidden_states
    states = np.stack([h[0].numpy() for h in (*hidden[1:-1], left[0])]).astype(np.float64)
    num = len(row.prompt_ids)
    return np.stack([states[:, num:].mean(1), states[:, :num].mean(1), states[:, num - 1]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens_per_batch", [1, 60, 10_000])
def test_means_are_those_of_numpy(family: str, tokens_per_batch: int) -> None:
    rows = rows_of(LENGTHS)
    found = collect_response_states(model_of(family), rows, tokens_per_batch)
    assert found.kept.tolist() == [0, 1, 3, 4, 6]
    assert found.num_empty == 2
    wanted = np.stack([direct(family, rows[number]) for number in found.kept], axis=1)
    for ours, theirs in zip(
        (found.response_mean, found.prompt_mean, found.prompt_last), wanted, strict=True
    ):
        assert ours.shape == (5, NUM_BLOCKS, WIDTH)
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def test_prompt_and_answer_meet_where_the_ids_say() -> None:
    """The same tokens, cut one later: other means, and the last prompt token is another one."""
    row = rows_of([(8, 6)])[0]
    ids = row.prompt_ids + row.answer_ids
    later = AnsweredPrompt(ids[:9], ids[9:])
    found = collect_response_states(model_of("llama"), [row, later], 100)
    weighted = 6 * found.response_mean[0] - 5 * found.response_mean[1]
    np.testing.assert_allclose(weighted, found.prompt_last[1], atol=1e-5)
    sums = 9 * found.prompt_mean[1] - 8 * found.prompt_mean[0]
    np.testing.assert_allclose(sums, found.prompt_last[1], atol=1e-5)


def test_only_empty_answers_leave_nothing() -> None:
    found = collect_response_states(model_of("llama"), rows_of([(3, 0)]), 100)
    assert found.num_empty == 1
    assert found.response_mean.shape == (0, NUM_BLOCKS, WIDTH)


def test_no_hook_is_left() -> None:
    model = model_of("llama")
    collect_response_states(model, rows_of(LENGTHS), 50)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


@pytest.mark.parametrize(
    ("lengths", "message"),
    [((0, 3), "row 0 has an empty prompt"), ((500, 13), "row 0 has 513 tokens, more than the 512")],
)
def test_rows_that_cannot_run_are_refused(lengths: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        collect_response_states(model_of("llama"), rows_of([lengths]), 100)
