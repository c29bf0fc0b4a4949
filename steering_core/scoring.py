"""Log-likelihoods of scored tokens, mean scores of candidates, and the chosen candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from steering_core.divergence import Divergence
from steering_core.layout import ModelLayout
from steering_core.packing import Batch
from steering_core.placing import PlacedBatch
from steering_core.xla import is_xla

_LOGITS_AT_ONCE = {"cpu": 2**18, "cuda": 2**24}
_LOGITS_ON_ACCELERATOR = 2**25
"""Logits held at once: what a core's cache holds on a CPU, in half precision what the L2 cache of a
data-center GPU holds (32 MiB), 128 MiB in float32 elsewhere."""
_FEWEST_COLUMNS = 1024
"""Of the head's matrix in one product; fewer would make it slow. On accelerators also what a number
of columns is a multiple of: rows of logits that do not begin at 16 bytes get slow products."""


Measure = Literal["kl"]
"""What can be measured of steered rows beside scores, at a price. ``kl``: the mean divergence
D_KL(P_steered || P_unsteered) of next-token distributions over a row's scored tokens, in nats."""

AddLogSumExp = Callable[[Tensor, Tensor], None]
"""Adds the head's products [M, C] of some columns to log-sum-exps [M] float32, in place."""


def scored_log_probs(
    layout: ModelLayout,
    resid_RSD: Tensor,
    batch: PlacedBatch,
    add_log_sum_exp: AddLogSumExp | None = None,
) -> Tensor:
    """Float32 log-probabilities [T] of a batch's scored tokens, in nats.

    Only the M positions that are read go through the final norm and the head. The logits of all
    of them are never held at once: their log-sum-exp is taken a slice of the vocabulary at a time,
    and a scored token's own logit is one dot product.

    Args:
        add_log_sum_exp: a kernel that does this for a slice (``kernels.log_sum_exp``).
    """
    hidden_MD = read_hidden(layout, resid_RSD, batch)
    return _scored(layout, hidden_MD, None, batch, add_log_sum_exp)[0]


def scored_with_divergence(
    layout: ModelLayout,
    resid_RSD: Tensor,
    unsteered_MD: Tensor,
    batch: PlacedBatch,
    add_log_sum_exp: AddLogSumExp | None = None,
) -> Tensor:
    """Of a batch's scored tokens [2, T] float32: ``scored_log_probs``, with the same bits, and the
    divergence of the next-token distribution that each is read from, in nats.

    The head multiplies both sides, a slice of the vocabulary at a time.

    Args:
        unsteered_MD: ``read_hidden`` of the unsteered pass.
    """
    hidden_MD = read_hidden(layout, resid_RSD, batch)
    return _scored(layout, hidden_MD, unsteered_MD, batch, add_log_sum_exp)


def read_hidden(layout: ModelLayout, resid_RSD: Tensor, batch: PlacedBatch) -> Tensor:
    """What the head reads [M, D] of what the last block leaves, at the positions that are read."""
    read_at = batch.read_at.to(resid_RSD.device)
    return layout.final_hidden(resid_RSD.reshape(-1, resid_RSD.shape[-1])[read_at])


def _scored(
    layout: ModelLayout,
    hidden_MD: Tensor,
    unsteered_MD: Tensor | None,
    batch: PlacedBatch,
    add_log_sum_exp: AddLogSumExp | None,
) -> Tensor:
    """Log-probabilities [1, T]; with an unsteered side [2, T], divergences behind them."""
    head = layout.head
    if type(head) is not nn.Linear:
        return _by_positions(layout, hidden_MD, unsteered_MD, batch.host)
    # A model that is spread over devices has its head elsewhere than its last block.
    hidden_MD = hidden_MD.to(head.weight)
    slot_T = batch.token_slot.to(hidden_MD.device)
    token_T = batch.token_ids.to(hidden_MD.device)
    picked_T = torch.linalg.vecdot(hidden_MD[slot_T].float(), head.weight[token_T].float())
    if head.bias is not None:
        picked_T += head.bias[token_T]
    divergence = None
    if unsteered_MD is not None:
        unsteered_MD = unsteered_MD.to(head.weight)
        divergence = Divergence(len(hidden_MD), hidden_MD.device)
    log_norm_M = _log_norms(layout, head, hidden_MD, unsteered_MD, divergence, add_log_sum_exp)
    log_probs_T = layout.scaled_and_capped(picked_T) - log_norm_M[slot_T]
    if divergence is None:
        return log_probs_T[None]
    return torch.stack([log_probs_T, divergence.value()[slot_T]])


def _log_norms(
    layout: ModelLayout,
    head: nn.Linear,
    hidden_MD: Tensor,
    unsteered_MD: Tensor | None,
    divergence: Divergence | None,
    add_log_sum_exp: AddLogSumExp | None,
) -> Tensor:
    """Float32 log-sum-exp [M] over the vocabulary, a slice of it at a time.

    Each slice goes to the divergence as well, where there is one.
    """
    log_norm_M = hidden_MD.new_full((len(hidden_MD),), -torch.inf, dtype=torch.float32)
    columns = columns_at_once(len(hidden_MD), hidden_MD.device.type)
    for low in range(0, head.out_features, columns):
        products = _products(head, hidden_MD, low, columns)
        if add_log_sum_exp is not None:
            add_log_sum_exp(log_norm_M, products)
            if divergence is None:
                continue
        logits_MC = layout.scaled_and_capped(products)
        if add_log_sum_exp is None:
            log_norm_M = _log_add_exp(log_norm_M, torch.logsumexp(logits_MC, dim=-1))
        if divergence is not None and unsteered_MD is not None:
            unsteered = _products(head, unsteered_MD, low, columns)
            divergence.add(logits_MC, layout.scaled_and_capped(unsteered))
    return log_norm_M


def _products(head: nn.Linear, hidden_MD: Tensor, low: int, columns: int) -> Tensor:
    """The head's products [M, C] of some columns."""
    bias = None if head.bias is None else head.bias[low : low + columns]
    return nn.functional.linear(hidden_MD, head.weight[low : low + columns], bias)


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """log(exp a + exp b); of all operations here the one that XLA leaves to the host."""
    if not is_xla(a.device):
        return torch.logaddexp(a, b)
    return torch.maximum(a, b) + torch.log1p(torch.exp(-(a - b).abs()))


def _by_positions(
    layout: ModelLayout, hidden_MD: Tensor, unsteered_MD: Tensor | None, batch: Batch
) -> Tensor:
    """As ``_scored``, for a head that only computes whole rows of logits."""
    rows = max(1, logits_at_once(hidden_MD.device.type) // int(layout.config.vocab_size))
    parts = []
    for low in range(0, len(hidden_MD), rows):
        first, last = np.searchsorted(batch.token_slot, [low, low + rows])
        logits_MV = layout.scaled_and_capped(layout.head(hidden_MD[low : low + rows]))
        slot_T = torch.as_tensor(batch.token_slot[first:last] - low, device=logits_MV.device)
        token_T = torch.as_tensor(batch.token_ids[first:last], device=logits_MV.device)
        found = [logits_MV[slot_T, token_T] - torch.logsumexp(logits_MV, dim=-1)[slot_T]]
        if unsteered_MD is not None:
            divergence = Divergence(len(logits_MV), logits_MV.device)
            unsteered_MV = layout.head(unsteered_MD[low : low + rows])
            divergence.add(logits_MV, layout.scaled_and_capped(unsteered_MV))
            found.append(divergence.value()[slot_T])
        parts.append(torch.stack(found))
    return torch.cat(parts, dim=1)


def columns_at_once(num_positions: int, device_type: str) -> int:
    """Columns of the head's matrix in one product with so many positions."""
    columns = max(_FEWEST_COLUMNS, logits_at_once(device_type) // num_positions)
    # On the CPU the number stays as it always was: the bits of scores depend on it.
    return columns if device_type == "cpu" else columns // _FEWEST_COLUMNS * _FEWEST_COLUMNS


def logits_at_once(device_type: str) -> int:
    """Logits that are held at a time on a kind of device."""
    return _LOGITS_AT_ONCE.get(device_type, _LOGITS_ON_ACCELERATOR)


def mean_scores(log_probs_T: np.ndarray, batch: Batch) -> np.ndarray:
    """Mean nats per scored token [B, C] float64 of each candidate, in the data file's order.

    A value that is not finite stays what it is. NaN if a row has no such candidate.
    """
    sums = np.bincount(
        batch.token_owner,
        weights=log_probs_T[: len(batch.token_owner)].astype(np.float64),
        minlength=batch.num_scored.size,
    )
    num_BC = batch.num_scored
    scores: np.ndarray = np.divide(
        sums.reshape(num_BC.shape), num_BC, where=num_BC > 0, out=np.full(num_BC.shape, np.nan)
    )
    return scores


def mean_divergences(kl_T: np.ndarray, batch: Batch) -> np.ndarray:
    """Mean nats [B] float64 over the scored tokens of each row, of all its candidates together."""
    sums = np.bincount(
        batch.token_owner // batch.num_candidates,
        weights=kl_T[: len(batch.token_owner)].astype(np.float64),
        minlength=len(batch.num_scored),
    )
    means: np.ndarray = sums / batch.num_scored.sum(axis=1)
    return means


def padded(
    rows: Sequence[np.ndarray],
    num_candidates: int | None = None,
    fill: float = np.nan,
    dtype: type = np.float64,
) -> np.ndarray:
    """Values of rows with different numbers of candidates as one array [N, C].

    Args:
        num_candidates: C; by default that of the longest row.
        fill: stands for candidates that a row does not have.
    """
    shape = len(rows), num_candidates or max(map(len, rows))
    found: np.ndarray = np.full(shape, fill, dtype)
    for of_all, row in zip(found, rows, strict=True):
        of_all[: len(row)] = row
    return found


def choose(scores_NC: np.ndarray, is_there_NC: np.ndarray | None = None) -> np.ndarray:
    """Index [N] int8 of the candidate with the highest score, the first on a tie.

    -1 if a score of the row is NaN: there is no highest then.

    Args:
        is_there_NC: candidates that the rows have; all of them by default.
    """
    there = np.ones(scores_NC.shape, bool) if is_there_NC is None else is_there_NC
    undefined = (np.isnan(scores_NC) & there).any(axis=-1)
    best = np.argmax(np.where(np.isnan(scores_NC), -np.inf, scores_NC), axis=-1)
    return np.where(undefined, -1, best).astype(np.int8)
