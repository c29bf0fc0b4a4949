"""Log-likelihoods of scored tokens, mean scores of candidates, and the chosen candidate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from steering_core.layout import ModelLayout
from steering_core.packing import NUM_CANDIDATES, Batch

_LOGITS_PER_SLICE = 32 * 2**20
"""Logits held at once: 128 MiB in float32, whatever the vocabulary."""


def scored_log_probs(layout: ModelLayout, resid_RSD: Tensor, batch: Batch) -> Tensor:
    """Float32 log-probabilities [T] of a batch's scored tokens, in nats.

    Only the M positions that are read go through the final norm and the head; log-softmax is in
    float32, a bounded number of positions at a time.
    """
    read_at = torch.as_tensor(batch.read_at, device=resid_RSD.device)
    resid_MD = resid_RSD.reshape(-1, resid_RSD.shape[-1])[read_at]
    rows = max(1, _LOGITS_PER_SLICE // int(layout.config.vocab_size))
    parts = []
    for low in range(0, len(batch.read_at), rows):
        high = min(low + rows, len(batch.read_at))
        first, last = np.searchsorted(batch.token_slot, [low, high])
        logits_MV = layout.logits(resid_MD[low:high])
        log_norm_M = torch.logsumexp(logits_MV, dim=-1)
        # A model that is spread over devices has its head elsewhere than its last block.
        slot_T = torch.as_tensor(batch.token_slot[first:last] - low, device=logits_MV.device)
        token_T = torch.as_tensor(batch.token_ids[first:last], device=logits_MV.device)
        parts.append(logits_MV[slot_T, token_T] - log_norm_M[slot_T])
    return torch.cat(parts)


def mean_scores(log_probs_T: np.ndarray, batch: Batch) -> np.ndarray:
    """Mean nats per scored token [B, 3] float64 of each candidate, in the data file's order.

    A value that is not finite stays what it is.
    """
    sums = np.bincount(
        batch.token_owner,
        weights=log_probs_T.astype(np.float64),
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
