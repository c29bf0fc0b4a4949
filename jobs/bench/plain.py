"""What the engine is measured against: the model's own forward with a hook, alone and in batches.

Shapes: N rows, C candidates of the row that has most, B sequences, S positions, V vocabulary, D
width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steering_core.encoding import EncodedCandidate, EncodedExample
from steering_core.hook_points import HookPoint
from steering_core.hooks import add
from steering_core.models import LoadedModel
from steering_core.scoring import padded

Steering = tuple[HookPoint, Tensor, float]
"""Where, the vector [D] on the model's device, and its coefficient."""


def one_by_one(model: LoadedModel, row: EncodedExample, steering: Steering) -> np.ndarray:
    """Mean nats per scored token [C] float64 as the paper's notebook gets them.

    One candidate at a time through every block, full logits [1, S, V], and a float32 log-softmax
    over the vocabulary at every position.
    """
    scores = []
    with torch.inference_mode(), add(model.layout, [steering]):
        for candidate in row.candidates:
            ids = torch.tensor([candidate.token_ids], device=model.device)
            logits = model.module(input_ids=ids, use_cache=False).logits
            log_probs = torch.log_softmax(logits.float(), dim=-1)[0]
            scores.append(_mean_of_scored(log_probs, candidate).item())
    return np.asarray(scores)


def batched(model: LoadedModel, rows: Sequence[EncodedExample], steering: Steering) -> np.ndarray:
    """Mean nats per scored token [N, C] float64 of N rows in one forward with a hook.

    All sequences of the rows are padded on the right to the longest, with an attention mask, and go
    through every block; full logits [B, S, V]. The log-softmax runs on the scored positions only: a
    loop that is written with some care does that much, and the comparison should be with such a
    one.
    """
    candidates = [candidate for row in rows for candidate in row.candidates]
    ids, mask = _pad(candidates)
    inputs = {
        "input_ids": torch.as_tensor(ids, device=model.device),
        "attention_mask": torch.as_tensor(mask, device=model.device),
    }
    with torch.inference_mode(), add(model.layout, [steering]):
        logits = model.module(**inputs, use_cache=False).logits
        sequence = [b for b, c in enumerate(candidates) for _ in c.scored_positions]
        at = [position for c in candidates for position in c.scored_positions]
        token = [t for c in candidates for t in c.scored_ids]
        log_probs = torch.log_softmax(logits[sequence, at].float(), dim=-1)
        picked = log_probs[range(len(token)), token].cpu().double().numpy()
    sums = np.bincount(sequence, weights=picked, minlength=len(candidates))
    means: np.ndarray = sums / [len(c.scored_ids) for c in candidates]
    ends = np.cumsum([len(row.candidates) for row in rows])
    return padded(np.split(means, ends[:-1]))


def num_positions_one_by_one(rows: Sequence[EncodedExample]) -> int:
    """Positions that ``one_by_one`` puts through every block and the head."""
    return sum(len(c.token_ids) for row in rows for c in row.candidates)


def num_positions_batched(rows: Sequence[EncodedExample]) -> int:
    """Positions, padding included, that one call of ``batched`` puts through blocks and head."""
    return sum(len(row.candidates) for row in rows) * max(row.num_tokens for row in rows)


def _mean_of_scored(log_probs: Tensor, candidate: EncodedCandidate) -> Tensor:
    """Mean of the scored tokens' entries of log-probabilities [S, V]."""
    picked = log_probs[list(candidate.scored_positions), list(candidate.scored_ids)]
    return picked.double().mean() if picked.device.type != "mps" else picked.mean()


def _pad(candidates: Sequence[EncodedCandidate]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask, both [B, S] int64, padded on the right."""
    longest = max(len(c.token_ids) for c in candidates)
    ids = np.zeros((len(candidates), longest), np.int64)
    mask = np.zeros_like(ids)
    for index, candidate in enumerate(candidates):
        ids[index, : len(candidate.token_ids)] = candidate.token_ids
        mask[index, : len(candidate.token_ids)] = 1
    return ids, mask
