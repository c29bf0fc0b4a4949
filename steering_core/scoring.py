"""Log-likelihoods of scored tokens, mean scores of candidates, and the chosen candidate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from steering_core.layout import ModelLayout
from steering_core.packing import NUM_CANDIDATES, Batch
from steering_core.placing import PlacedBatch
from steering_core.xla import is_xla

_LOGITS_AT_ONCE = {"cpu": 2**18, "cuda": 2**24}
_LOGITS_ON_ACCELERATOR = 2**25
"""Logits held at once: what a core's cache holds on a CPU, in half precision what the L2 cache of a
data-center GPU holds (32 MiB), 128 MiB in float32 elsewhere."""
_FEWEST_COLUMNS = 1024
"""Of the head's matrix in one product; fewer would make it slow. On accelerators also what a number
of columns is a multiple of: rows of logits that do not begin at 16 bytes get slow products."""


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
    read_at = batch.read_at.to(resid_RSD.device)
    hidden_MD = layout.final_hidden(resid_RSD.reshape(-1, resid_RSD.shape[-1])[read_at])
    head = layout.head
    if type(head) is not nn.Linear:
        return _by_positions(layout, hidden_MD, batch.host)
    # A model that is spread over devices has its head elsewhere than its last block.
    hidden_MD = hidden_MD.to(head.weight)
    slot_T = batch.token_slot.to(hidden_MD.device)
    token_T = batch.token_ids.to(hidden_MD.device)
    picked_T = torch.linalg.vecdot(hidden_MD[slot_T].float(), head.weight[token_T].float())
    if head.bias is not None:
        picked_T += head.bias[token_T]
    log_norm_M = _log_norms(layout, head, hidden_MD, add_log_sum_exp)
    return layout.scaled_and_capped(picked_T) - log_norm_M[slot_T]


def _log_norms(
    layout: ModelLayout,
    head: nn.Linear,
    hidden_MD: Tensor,
    add_log_sum_exp: AddLogSumExp | None = None,
) -> Tensor:
    """Float32 log-sum-exp [M] over the vocabulary, a slice of it at a time."""
    log_norm_M = hidden_MD.new_full((len(hidden_MD),), -torch.inf, dtype=torch.float32)
    columns = columns_at_once(len(hidden_MD), hidden_MD.device.type)
    for low in range(0, head.out_features, columns):
        bias = None if head.bias is None else head.bias[low : low + columns]
        products = nn.functional.linear(hidden_MD, head.weight[low : low + columns], bias)
        if add_log_sum_exp is not None:
            add_log_sum_exp(log_norm_M, products)
            continue
        logits_MC = layout.scaled_and_capped(products)
        log_norm_M = _log_add_exp(log_norm_M, torch.logsumexp(logits_MC, dim=-1))
    return log_norm_M


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """log(exp a + exp b); of all operations here the one that XLA leaves to the host."""
    if not is_xla(a.device):
        return torch.logaddexp(a, b)
    return torch.maximum(a, b) + torch.log1p(torch.exp(-(a - b).abs()))


def _by_positions(layout: ModelLayout, hidden_MD: Tensor, batch: Batch) -> Tensor:
    """As ``scored_log_probs``, for a head that only computes whole rows of logits."""
    rows = max(1, logits_at_once(hidden_MD.device.type) // int(layout.config.vocab_size))
    parts = []
    for low in range(0, len(hidden_MD), rows):
        first, last = np.searchsorted(batch.token_slot, [low, low + rows])
        logits_MV = layout.scaled_and_capped(layout.head(hidden_MD[low : low + rows]))
        slot_T = torch.as_tensor(batch.token_slot[first:last] - low, device=logits_MV.device)
        token_T = torch.as_tensor(batch.token_ids[first:last], device=logits_MV.device)
        parts.append(logits_MV[slot_T, token_T] - torch.logsumexp(logits_MV, dim=-1)[slot_T])
    return torch.cat(parts)


def columns_at_once(num_positions: int, device_type: str) -> int:
    """Columns of the head's matrix in one product with so many positions."""
    columns = max(_FEWEST_COLUMNS, logits_at_once(device_type) // num_positions)
    # On the CPU the number stays as it always was: the bits of scores depend on it.
    return columns if device_type == "cpu" else columns // _FEWEST_COLUMNS * _FEWEST_COLUMNS


def logits_at_once(device_type: str) -> int:
    """Logits that are held at a time on a kind of device."""
    return _LOGITS_AT_ONCE.get(device_type, _LOGITS_ON_ACCELERATOR)


def mean_scores(log_probs_T: np.ndarray, batch: Batch) -> np.ndarray:
    """Mean nats per scored token [B, 3] float64 of each candidate, in the data file's order.

    A value that is not finite stays what it is.
    """
    sums = np.bincount(
        batch.token_owner,
        weights=log_probs_T[: len(batch.token_owner)].astype(np.float64),
        minlength=batch.num_scored.size,
    )
    scores: np.ndarray = sums.reshape(-1, NUM_CANDIDATES) / batch.num_scored
    return scores


def choose(scores_N3: np.ndarray) -> np.ndarray:
    """Index [N] int8 of the candidate with the highest score, the first on a tie.

    -1 where a score of the row is NaN: there is no highest then.
    """
    undefined = np.isnan(scores_N3).any(axis=-1)
    best = np.argmax(np.where(undefined[..., None], 0.0, scores_N3), axis=-1)
    return np.where(undefined, -1, best).astype(np.int8)
