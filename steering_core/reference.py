"""The slow, obvious path: one candidate at a time, the model's own forward, one plain hook.

No packing, no fork, no batch. What the fast path computes is compared with this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from steering_core.encoding import EncodedCandidate, EncodedExample
from steering_core.hook_points import HookPoint
from steering_core.hooks import capture, change
from steering_core.interventions import Intervention, intervene, positions_slice
from steering_core.models import LoadedModel
from steering_core.pooled import POOLED_LABELS


def reference_scores(
    model: LoadedModel, row: EncodedExample, intervention: Intervention | None = None
) -> np.ndarray:
    """Mean nats per scored token [3] float64 of one example, steered where asked."""
    if intervention is None:
        with torch.inference_mode():
            return np.asarray([_mean_log_prob(model, c) for c in row.candidates])
    scores = []
    for candidate in row.candidates:
        at = positions_slice(intervention.positions, candidate.num_question)
        action = _changed_at(at, intervention, model.device)
        with torch.inference_mode(), change(model.layout, [(intervention.point, action)]):
            scores.append(_mean_log_prob(model, candidate))
    return np.asarray(scores)


def _changed_at(
    at: slice, intervention: Intervention, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """An action on states [1, S, D] that changes some positions."""
    vector = torch.as_tensor(intervention.vector, device=device)
    operation, coeff = intervention.operation, intervention.coeff

    def action(state_1SD: Tensor) -> Tensor:
        changed_1SD = state_1SD.clone()
        changed_1SD[:, at] = intervene(operation, state_1SD[:, at], vector, coeff)
        return changed_1SD

    return action


def reference_difference(model: LoadedModel, row: EncodedExample, point: HookPoint) -> np.ndarray:
    """Pooled anti-stereotype minus pooled stereotype states [D] float64 of one example."""
    stereotype_D, anti_D = reference_states(model, row, [point])[:, 0]
    difference: np.ndarray = anti_D - stereotype_D
    return difference


def reference_states(
    model: LoadedModel, row: EncodedExample, points: Sequence[HookPoint]
) -> np.ndarray:
    """Pooled states [2, L, D] float64 of one example at several hook points, by ``POOLED_LABELS``.

    One forward of each candidate, whatever the number of hook points.
    """
    width = model.layout.config.hidden_size
    pooled = []
    for label in POOLED_LABELS:
        candidate = row.candidates[row.example.index_of(label)]
        with torch.inference_mode(), capture(model.layout, points) as states:
            _forward(model, candidate.token_ids)
        start, stop = candidate.pooled
        means = [states[p][0, start:stop].cpu().double().mean(dim=0).numpy() for p in points]
        pooled.append(np.asarray(means).reshape(len(points), width))
    return np.stack(pooled)


def _forward(model: LoadedModel, token_ids: Sequence[int]) -> Tensor:
    ids = torch.tensor([token_ids], device=model.device)
    logits: Tensor = model.module(input_ids=ids, use_cache=False).logits[0]
    return logits


def _mean_log_prob(model: LoadedModel, candidate: EncodedCandidate) -> float:
    log_probs_SV = torch.log_softmax(_forward(model, candidate.token_ids).float(), dim=-1)
    picked = log_probs_SV[list(candidate.scored_positions), list(candidate.scored_ids)]
    return float(picked.cpu().double().mean())
