"""Choices, mean scores, and log-probabilities in slices."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steering_core import scoring
from steering_core.divergence import Divergence
from steering_core.layout import find_layout
from steering_core.memory import peak_memory
from steering_core.scoring import (
    choose,
    columns_at_once,
    mean_divergences,
    mean_scores,
    read_hidden,
    scored_log_probs,
    scored_with_divergence,
)
from tests.support.tiny_models import random_model

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("scores", "choice"),
    [
        ([-3.0, -1.0, -2.0], 1),
        ([-3.0, -2.0, -1.0], 2),
        ([-1.0, -1.0, -2.0], 0),
        ([-2.0, -1.0, -1.0], 1),
        ([-1.0, -1.0, -1.0], 0),
        ([-INF, -1.0, -2.0], 1),
        ([-INF, -INF, -INF], 0),
        ([NAN, -1.0, -2.0], -1),
        ([-1.0, -2.0, NAN], -1),
        ([-2.0, INF, NAN], -1),
    ],
)
def test_choice_is_the_highest_the_first_on_a_tie_and_none_with_nan(
    scores: list[float], choice: int
) -> None:
    # A row before and one behind, so that rows cannot be mixed up.
    chosen = choose(np.array([[0.0, 1.0, 2.0], scores, [5.0, 1.0, 2.0]]))
    assert chosen.dtype == np.int8
    assert chosen.tolist() == [2, choice, 0]


def batch_of(owner: list[int], num_scored: list[list[int]], **arrays: Any) -> Any:
    counts = np.array(num_scored)
    return SimpleNamespace(
        token_owner=np.array(owner), num_scored=counts, num_candidates=counts.shape[-1], **arrays
    )


def test_mean_scores_are_means_by_candidate_whatever_the_order_of_tokens() -> None:
    batch = batch_of([5, 0, 1, 0, 2, 3, 4, 5, 5], [[2, 1, 1], [1, 1, 3]])
    log_probs = np.array([-1, -2, -3, -4, -5, -6, -7, -8, -9], np.float32)
    scores = mean_scores(log_probs, batch)
    assert scores.dtype == np.float64
    assert scores.tolist() == [[-3.0, -3.0, -5.0], [-6.0, -7.0, -6.0]]


@pytest.mark.parametrize("bad", [-INF, NAN])
def test_a_value_that_is_not_finite_stays_in_its_own_score(bad: float) -> None:
    batch = batch_of([0, 0, 1, 2], [[2, 1, 1]])
    scores = mean_scores(np.array([-1.0, bad, -2.0, -3.0], np.float32), batch)
    np.testing.assert_array_equal(scores, [[bad, -2.0, -3.0]])


class _WholeHead(nn.Linear):
    """A head that is not known to be a plain product."""


@pytest.mark.parametrize("head", [nn.Linear, _WholeHead])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("at_once", [1, 300 * 2, 5 * 64, 5 * 128, 2**25])
def test_log_probs_do_not_depend_on_the_slice(
    at_once: int, has_bias: bool, head: type[nn.Linear], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several tokens at one position, and slices that divide neither vocabulary nor positions."""
    layout = find_layout(random_model("gemma2", 300))
    known = head(64, 300, bias=has_bias)
    known.requires_grad_(False).weight.copy_(layout.head.weight)
    layout = replace(layout, head=known)
    generator = torch.Generator().manual_seed(0)
    resid = torch.randn(2, 6, 64, generator=generator)
    unsteered = resid + torch.randn(2, 6, 64, generator=generator)
    arrays = {
        "read_at": np.array([1, 2, 5, 7, 11]),
        "token_slot": np.array([0, 0, 1, 2, 2, 2, 3, 4]),
        "token_ids": np.array([7, 299, 0, 7, 8, 9, 250, 3]),
    }
    batch = batch_of([], [], **arrays)
    placed: Any = SimpleNamespace(host=batch, **{k: torch.tensor(v) for k, v in arrays.items()})
    at = batch.read_at[batch.token_slot]
    whole, before = (
        torch.log_softmax(layout.logits(of.reshape(12, 64)).double(), dim=-1)[at]
        for of in (resid, unsteered)
    )
    wanted = whole[range(len(at)), batch.token_ids]
    monkeypatch.setattr(scoring, "_LOGITS_AT_ONCE", {"cpu": at_once})
    monkeypatch.setattr(scoring, "_FEWEST_COLUMNS", 1)
    found = scored_log_probs(layout, resid, placed)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)

    hidden = read_hidden(layout, unsteered, placed)
    log_probs, kl = scored_with_divergence(layout, resid, hidden, placed)
    assert torch.equal(log_probs, found)
    assert kl.dtype == torch.float32
    wanted_kl = (whole.exp() * (whole - before)).sum(dim=-1)
    assert wanted_kl.min() > 0.1
    torch.testing.assert_close(kl.double(), wanted_kl, rtol=0, atol=1e-5)
    _, none = scored_with_divergence(layout, unsteered, hidden, placed)
    assert none.tolist() == [0.0] * len(at)


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 100.0])
def test_a_divergence_of_many_slices_is_that_of_whole_logits(size: float) -> None:
    """A large vocabulary, logits far from 0, and differences from tiny to overwhelming."""
    generator = torch.Generator().manual_seed(1)
    unsteered = 4 * torch.randn(3, 50_000, generator=generator) + torch.tensor(
        [[0.0], [900], [-70]]
    )
    logits = unsteered + size * torch.randn(3, 50_000, generator=generator) + 5 * size
    divergence = Divergence(3, torch.device("cpu"))
    for low in range(0, 50_000, 512):
        part = slice(low, low + 512)
        divergence.add(logits[:, part].clone(), unsteered[:, part].clone())
    after, before = (torch.log_softmax(of.double(), dim=-1) for of in (logits, unsteered))
    wanted = (after.exp() * (after - before)).sum(dim=-1)
    torch.testing.assert_close(divergence.value().double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [INF, NAN])
def test_a_logit_that_is_not_finite_leaves_its_own_position_without_a_divergence(
    bad: float,
) -> None:
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    logits[1, 6] = bad
    divergence = Divergence(3, logits.device)
    for low in (0, 4):
        divergence.add(logits[:, low : low + 4].clone(), torch.zeros(3, 4))
    assert divergence.value().isnan().tolist() == [False, True, False]


def test_a_row_counts_the_position_of_each_scored_token_once() -> None:
    """Two tokens of different candidates are read at one position where rows are packed."""
    batch = batch_of([5, 0, 1, 0, 2, 3, 4, 5, 5], [[2, 1, 1], [1, 1, 3]])
    kl = np.array([9, 1, 2, 3, 4, 5, 6, 7, 8, 1000], np.float32)
    found = mean_divergences(kl, batch)  # the last one has no owner: it fills a static batch
    assert found.dtype == np.float64
    assert found.tolist() == [2.5, 7.0]


@pytest.mark.parametrize("num_positions", [1, 148, 3079, 5749, 40_000])
def test_slices_of_the_head_are_aligned_on_accelerators_and_as_before_on_a_cpu(
    num_positions: int,
) -> None:
    for device_type, most in (("cuda", 2**24), ("xla", 2**25), ("mps", 2**25)):
        columns = columns_at_once(num_positions, device_type)
        assert columns % 1024 == 0
        assert columns * num_positions <= most or columns == 1024
        # No shorter than need be: a slice more would not fit.
        assert (columns + 1024) * num_positions > most
    assert columns_at_once(num_positions, "cpu") == max(1024, 2**18 // num_positions)


def test_memory_of_the_head_follows_the_slices() -> None:
    """2,048 columns of 5,749 positions on CUDA, where 5,836 were held before."""
    skeleton: Any = SimpleNamespace(
        vocab_size=256_000, width=1, widest=1, num_heads=0, num_kv_heads=0, head_width=0,
        num_params=0, num_blocks=1, caps_attention=False,
    )  # fmt: skip
    batch: Any = SimpleNamespace(num_tokens=1, num_sequences=1, num_positions=1, num_read=5749)
    held = peak_memory(skeleton, [batch], "bfloat16", "cuda", num_kept=0, longest=0)
    assert held.scratch_bytes == 2 * 5749 + (2 + 8) * 5749 * 2048
    # Of kl, the slices of both sides.
    held = peak_memory(
        skeleton, [batch], "bfloat16", "cuda", num_kept=0, longest=0, measures=["kl"]
    )
    assert held.scratch_bytes == 2 * 2 * 5749 + (2 * 2 + 12) * 5749 * 2048
