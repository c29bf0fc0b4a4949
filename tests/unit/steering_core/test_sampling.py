"""Choosing tokens: the right probabilities, a row's own stream, settings of the caller alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steering_core.sampling import (
    Sampling,
    _least_kept_by_bisection,
    _least_kept_by_sorting,
    choose,
    eos_ids_of,
    random_stream,
    row_seed,
)
from steersweep.errors import UserError

PLAIN = Sampling(max_new_tokens=1, eos_ids=())


def by_hand(logits_V: np.ndarray, draw: float, temperature: float, top_p: float) -> int:
    """In float64, in the order of the vocabulary."""
    scaled = logits_V.astype(np.float64) / temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    order = np.argsort(-probs)
    before = np.cumsum(probs[order]) - probs[order]
    least = probs[order][before < top_p].min()
    probs[probs < least] = 0.0
    upto = probs.cumsum()
    return int(np.searchsorted(upto, draw * upto[-1], side="right"))


@pytest.mark.parametrize("vocab", [5, 128, 300, 1500])
@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.9), (2.0, 0.3), (1.0, 0.999)]
)
def test_tokens_are_those_of_the_inverted_sum(vocab: int, temperature: float, top_p: float) -> None:
    rng = np.random.default_rng(0)
    logits = (2 * rng.standard_normal((200, vocab))).astype(np.float32)
    draws = rng.random(200)
    sampling = Sampling(1, (), temperature=temperature, top_p=top_p)
    found = choose(torch.from_numpy(logits), torch.from_numpy(draws), sampling)
    wanted = [
        by_hand(row, draw, temperature, top_p) for row, draw in zip(logits, draws, strict=True)
    ]
    assert found.tolist() == wanted


def distributions(kind: str) -> torch.Tensor:
    """Float32 probabilities [60, V] of one kind."""
    rng = np.random.default_rng(7)
    if kind == "tied":  # few distinct values, whose sums are exact
        weights = 2.0 ** rng.integers(0, 4, (60, 512))
        weights[:, 0] += 2.0**12 - weights.sum(axis=1)
        return torch.from_numpy((weights / 2.0**12).astype(np.float32))
    if kind == "one-hot":
        return torch.eye(60, 1500)
    scale = {"random": 2.0, "peaked": 12.0, "flat": 0.01, "equal": 0.0, "wide": 3.0}[kind]
    num_tokens = 5000 if kind in ("flat", "wide") else 700
    logits = scale * rng.standard_normal((60, num_tokens))
    return torch.softmax(torch.from_numpy(logits.astype(np.float32)), dim=-1)


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.99, 1 - 1e-7])
@pytest.mark.parametrize("kind", ["random", "peaked", "flat", "equal", "wide", "tied", "one-hot"])
def test_both_ways_to_find_the_least_kept_token_keep_the_same(kind: str, top_p: float) -> None:
    probs = distributions(kind)
    sorted_ = (probs >= _least_kept_by_sorting(probs, top_p)) & (probs > 0)
    bisected = (probs >= _least_kept_by_bisection(probs, top_p)) & (probs > 0)
    # Where they differ, float32 sums cannot tell on which side of top_p a token lies.
    is_differing = (sorted_ ^ bisected).any(dim=1)
    exact = probs.double()
    for row, both in zip(exact[is_differing], (sorted_ | bisected)[is_differing], strict=True):
        before_least = row[row > row[both].min()].sum()
        assert abs(before_least - top_p) < 1e-5
    if kind in ("tied", "one-hot", "equal"):
        assert not is_differing.any()
    assert is_differing.float().mean() < 0.1 or top_p > 0.999


def test_bisection_keeps_what_exact_sums_say() -> None:
    for kind in ("random", "peaked", "flat", "wide", "tied"):
        probs = distributions(kind)
        for top_p in (0.25, 0.5, 0.75):
            least = _least_kept_by_bisection(probs, top_p)
            for row, found in zip(probs.double().numpy(), least[:, 0].tolist(), strict=True):
                order = np.sort(row)[::-1]
                wanted = order[np.cumsum(order) - order < top_p].min()
                assert found == wanted


def test_frequencies_are_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2])
    draws = torch.from_numpy(random_stream(1, 20_000))
    found = choose(probs.log().expand(len(draws), -1), draws, PLAIN)
    shares = torch.bincount(found, minlength=4) / len(draws)
    torch.testing.assert_close(shares, probs, atol=0.015, rtol=0)
    assert shares[1] == 0


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0 - 2.0**-53])
@pytest.mark.parametrize("token", [0, 127, 128, 299])
def test_a_token_without_probability_is_never_chosen(draw: float, token: int) -> None:
    logits = torch.full((1, 300), -torch.inf)
    logits[0, token] = 0.0
    assert choose(logits, torch.tensor([draw], dtype=torch.float64), PLAIN).tolist() == [token]


def test_greedy_reads_no_draw_and_takes_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, -1.0]])
    greedy = Sampling(1, (), greedy=True)
    assert choose(logits, torch.full((2,), torch.nan), greedy).tolist() == [1, 0]


def test_a_rows_token_does_not_depend_on_the_rows_beside_it() -> None:
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.standard_normal((64, 1000)).astype(np.float32))
    draws = torch.from_numpy(rng.random(64))
    for sampling in (PLAIN, Sampling(1, (), top_p=0.8)):
        together = choose(logits, draws, sampling)
        alone = [choose(logits[n : n + 1], draws[n : n + 1], sampling) for n in range(64)]
        assert torch.equal(together, torch.cat(alone))


def test_a_stream_is_its_seeds_and_longer_ones_begin_alike() -> None:
    """Pinned: another stream would be other answers under the same seed."""
    np.testing.assert_array_equal(random_stream(7, 3), random_stream(7, 9)[:3])
    assert not np.array_equal(random_stream(7, 3), random_stream(8, 3))
    np.testing.assert_allclose(
        random_stream(0, 3),
        [0.011546754286331562, 0.24154919656271812, 0.11142585551493822],
        rtol=0,
        atol=1e-15,
    )
    for seed in (-1, 2**128):
        with pytest.raises(UserError, match="seed must be in"):
            random_stream(seed, 1)


def test_seeds_are_decided_by_names() -> None:
    assert row_seed("evil", 3, 0.5) == row_seed("evil", 3, 0.5) < 2**128
    names: list[tuple[Any, ...]] = [
        ("evil", 3),
        ("evil", 4),
        ("evil3",),
        ("evil", "3"),
        (3, "evil"),
    ]
    assert len({row_seed(*n) for n in names}) == len(names)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": 0.0}, "greedy sampling takes"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ],
)
def test_settings_that_cannot_be_sampled_with_are_refused(
    changed: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 1, "eos_ids": ()}
    with pytest.raises(UserError, match=message):
        Sampling(**(options | changed)).check()


class _Model(nn.Module):
    def __init__(self, **said: Any) -> None:
        super().__init__()
        from transformers import GenerationConfig

        self.generation_config = GenerationConfig(**said)
        self.config = SimpleNamespace(eos_token_id=4)


def test_eos_ids_are_gathered_from_all_who_name_them() -> None:
    tokenizer = SimpleNamespace(eos_token_id=9)
    assert eos_ids_of(_Model(eos_token_id=[9, 7]), tokenizer) == (4, 7, 9)
    assert eos_ids_of(nn.Linear(1, 1), SimpleNamespace(eos_token_id=None)) == ()
