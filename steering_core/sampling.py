"""Choosing the next token, each row from a random stream of its own.

A row's k-th token is chosen with the k-th number of its stream, by inverting the cumulative
probabilities in the order of the vocabulary. So it depends on the row's seed and its logits, and on
no other row. Last bits of logits do depend on the shapes of a batch: they decide where a number
lies within rounding of the border between two tokens, about once in 10^5 tokens in float32.

Shapes: R rows, V vocabulary, G groups of the vocabulary, E entries of a group.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steersweep.errors import UserError

_GROUP = 128
_LIKELIEST = 1024
_BITS_OF_ONE = 0x3F800000
"""Of 1.0 in float32."""
_BELOW_ONE = 1.0 - 2.0**-20


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are written; nothing else has a say, the model's generation config neither.

    Attributes:
        max_new_tokens: of an answer, where its row does not say otherwise.
        eos_ids: tokens that end an answer; see ``eos_ids_of``.
        greedy: take the likeliest token; ``temperature`` and ``top_p`` then say nothing.
        temperature: divides the logits.
        top_p: sample from the fewest likeliest tokens that have this probability together, and
            from those that are as likely as the last of them.
    """

    max_new_tokens: int
    eos_ids: tuple[int, ...]
    greedy: bool = False
    temperature: float = 1.0
    top_p: float = 1.0

    def check(self) -> None:
        """Raise UserError for a setting that cannot be sampled with."""
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 < self.temperature < float("inf"):
            raise UserError(
                f"temperature must be more than 0, got {self.temperature}; greedy sampling takes "
                "the likeliest token"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be more than 0 and at most 1, got {self.top_p}")


def eos_ids_of(module: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    """Ids of the tokens that end an answer: the tokenizer's, and those that the model names.

    ``models.read_eos_ids`` finds the same before the model is loaded.
    """
    configs = (getattr(module, "generation_config", None), getattr(module, "config", None))
    return named_eos_ids(tokenizer, *configs)


def named_eos_ids(*sources: Any) -> tuple[int, ...]:
    """Every ``eos_token_id`` of tokenizers and configs, ascending; a source may be None."""
    ids: set[int | None] = set()
    for source in sources:
        named = getattr(source, "eos_token_id", None)
        ids |= set(named) if isinstance(named, list | tuple) else {named}
    return tuple(sorted(int(token) for token in ids if token is not None))


def row_seed(*names: str | int | float) -> int:
    """A seed that names decide, for instance of sweep, question, sample and configuration."""
    text = json.dumps(names, ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def random_stream(seed: int, num: int) -> np.ndarray:
    """The first ``num`` numbers [num] float64 in [0, 1) of a row's stream (Philox, by counter).

    Raises:
        UserError: a seed that is negative or has more than 128 bits.
    """
    if not 0 <= seed < 2**128:
        raise UserError(f"a row's seed must be in 0..2**128 - 1, got {seed}")
    return np.random.Generator(np.random.Philox(key=seed)).random(num)


def choose(logits_RV: Tensor, draws_R: Tensor, sampling: Sampling) -> Tensor:
    """The next token [R] int64 of each row.

    Args:
        logits_RV: float32; not changed.
        draws_R: in [0, 1), of each row's stream; not read where sampling is greedy.
    """
    if sampling.greedy:
        return logits_RV.argmax(dim=-1)
    return _invert(choice_probs(logits_RV, sampling), draws_R)


def choice_probs(logits_RV: Tensor, sampling: Sampling) -> Tensor:
    """What a token is drawn by [R, V]; with ``top_p``, 0 for those left out, and no sum of 1."""
    if sampling.greedy:
        return torch.softmax(logits_RV, dim=-1)
    probs_RV = torch.softmax(logits_RV / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        least_R1 = _least_kept(probs_RV, sampling.top_p)
        probs_RV = torch.where(probs_RV >= least_R1, probs_RV, 0.0)
    return probs_RV


def _least_kept(probs_RV: Tensor, top_p: float) -> Tensor:
    """Probability [R, 1] float32 of the last token that is kept, likeliest first."""
    if probs_RV.device.type == "cpu":
        return _least_kept_by_sorting(probs_RV, top_p)
    return _least_kept_by_bisection(probs_RV, top_p)


def _least_kept_by_sorting(probs_RV: Tensor, top_p: float) -> Tensor:
    """As ``_least_kept``. Decides on the host how many tokens to sort."""
    likeliest = torch.topk(probs_RV, min(_LIKELIEST, probs_RV.shape[1])).values
    if likeliest.shape[1] < probs_RV.shape[1] and bool((likeliest.sum(dim=1) < top_p).any()):
        likeliest = probs_RV.sort(dim=1, descending=True).values
    before = likeliest.cumsum(dim=1) - likeliest
    kept = torch.where(before < top_p, likeliest, float("inf"))
    return kept.min(dim=1, keepdim=True).values


def _least_kept_by_bisection(probs_RV: Tensor, top_p: float) -> Tensor:
    """The least number such that all tokens above it have less than ``top_p`` together, [R, 1].

    The tokens from there on are those that ``_least_kept_by_sorting`` keeps, but for rounding: sums
    are float64 here. The host does not wait for the device and nothing is sorted. Positive floats
    are in the order of their bits, so 30 halvings find the number exactly.
    """
    top_p = float(np.float32(top_p))  # as float32 sums are compared with it
    exact = torch.float32 if probs_RV.device.type == "mps" else torch.float64
    low_R1 = torch.zeros(len(probs_RV), 1, dtype=torch.int32, device=probs_RV.device)
    high_R1 = torch.full_like(low_R1, _BITS_OF_ONE)
    for _ in range(_BITS_OF_ONE.bit_length()):
        middle_R1 = low_R1 + (high_R1 - low_R1) // 2
        above_RV = torch.where(probs_RV > middle_R1.view(torch.float32), probs_RV, 0.0)
        is_enough_R1 = above_RV.sum(dim=1, keepdim=True, dtype=exact) < top_p
        high_R1 = torch.where(is_enough_R1, middle_R1, high_R1)
        low_R1 = torch.where(is_enough_R1, low_R1, middle_R1)
    return high_R1.view(torch.float32)


def _invert(probs_RV: Tensor, draws_R: Tensor) -> Tensor:
    """The first token [R] up to which the probabilities sum to more than a draw's share of all.

    In two steps, groups of tokens and then tokens of a group: a running sum over a vocabulary is
    slow, and in float32 it is rough.
    """
    num_rows, num_tokens = probs_RV.shape
    missing = -num_tokens % _GROUP
    if missing:
        probs_RV = torch.nn.functional.pad(probs_RV, (0, missing))
    probs_RGE = probs_RV.view(num_rows, -1, _GROUP)
    exact = torch.float32 if probs_RV.device.type == "mps" else torch.float64
    upto_RG = probs_RGE.sum(dim=2).to(exact).cumsum(dim=1)
    share_R1 = draws_R.to(exact)[:, None] * upto_RG[:, -1:]
    group_R1 = _first_above(upto_RG, share_R1)
    upto_RG = torch.cat([torch.zeros_like(upto_RG[:, :1]), upto_RG], dim=1)
    share_R1 = share_R1 - upto_RG.gather(1, group_R1)
    own_RE = probs_RGE[torch.arange(num_rows, device=probs_RV.device), group_R1[:, 0]]
    return (group_R1 * _GROUP + _first_above(own_RE.to(exact).cumsum(dim=1), share_R1))[:, 0]


def _first_above(upto: Tensor, share_R1: Tensor) -> Tensor:
    """Index [R, 1] of the first running sum above a share; never of an entry that adds nothing."""
    # The sum of a group and the sum of its entries differ by rounding.
    share_R1 = torch.minimum(share_R1, upto[:, -1:] * _BELOW_ONE)
    return (upto <= share_R1).sum(dim=1, keepdim=True).clamp(max=upto.shape[1] - 1)
