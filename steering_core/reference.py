"""The slow, obvious path: one candidate at a time, the model's own forward, one plain hook.

No packing, no fork, no batch, no padding. What the fast path computes is compared with this.

On devices that compile a program for each shape, and for each number that is written in it, a
sequence is padded on the right, where nothing before sees it, up to one of the widths of
``buckets``; vector, coefficient, positions and tokens come as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from steering_core.buckets import Buckets
from steering_core.encoding import EncodedCandidate, EncodedExample
from steering_core.hook_points import HookPoint
from steering_core.hooks import capture, change
from steering_core.interventions import Intervention, intervene, positions_slice
from steering_core.models import LoadedModel
from steering_core.placing import upload
from steering_core.xla import forward_only, is_xla, launch


def reference_scores(
    model: LoadedModel, row: EncodedExample, intervention: Intervention | None = None
) -> np.ndarray:
    """Mean nats per scored token [C] float64 of one example, steered where asked."""
    scores = []
    for candidate in row.candidates:
        with forward_only(model.device), _steered(model, candidate, intervention):
            scores.append(_mean_log_prob(_log_probs(model, candidate), model, candidate))
    return np.asarray(scores)


def reference_scores_and_kl(
    model: LoadedModel, row: EncodedExample, intervention: Intervention
) -> tuple[np.ndarray, float]:
    """``reference_scores`` of one example, and its mean D_KL(P_steered || P_unsteered) in nats.

    The divergence is that of whole next-token distributions, in float64; each scored token of each
    candidate counts the position that it is read at.
    """
    scores, divergences = [], []
    for candidate in row.candidates:
        log_probs = []
        for one in (None, intervention):
            with forward_only(model.device), _steered(model, candidate, one):
                log_probs.append(_log_probs(model, candidate))
        unsteered_TV, steered_TV = (_read(of, model, candidate).double() for of in log_probs)
        divergences.append((steered_TV.exp() * (steered_TV - unsteered_TV)).sum(dim=-1))
        scores.append(_mean_log_prob(log_probs[1], model, candidate))
    return np.asarray(scores), float(torch.cat(divergences).mean())


def _steered(
    model: LoadedModel, candidate: EncodedCandidate, intervention: Intervention | None
) -> AbstractContextManager[None]:
    """While open, the model is steered as asked, with a candidate's positions."""
    if intervention is None:
        return nullcontext()
    at_S = np.zeros(_width(model, candidate.token_ids), bool)
    at_S[positions_slice(intervention.positions, candidate.num_question)] = True
    action = _changed_at(at_S, intervention, model.device)
    return change(model.layout, [(intervention.point, action)])


def _changed_at(
    at_S: np.ndarray, intervention: Intervention, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """An action on states [1, S, D] that changes some positions."""
    at_S1 = upload(torch.from_numpy(at_S)[:, None], device)
    vector = upload(torch.as_tensor(intervention.vector), device)
    coeff = upload(torch.tensor(intervention.coeff, dtype=torch.float32), device)

    def action(state_1SD: Tensor) -> Tensor:
        # A model over several devices has its blocks on different ones.
        here = state_1SD.device
        changed_1SD = intervene(intervention.operation, state_1SD, vector.to(here), coeff.to(here))
        return torch.where(at_S1.to(here), changed_1SD, state_1SD)

    return action


def reference_difference(model: LoadedModel, row: EncodedExample, point: HookPoint) -> np.ndarray:
    """Pooled positive minus pooled negative states [D] float64 of one example."""
    negative_D, positive_D = reference_states(model, row, [point])[:, 0]
    difference: np.ndarray = positive_D - negative_D
    return difference


def reference_states(
    model: LoadedModel, row: EncodedExample, points: Sequence[HookPoint]
) -> np.ndarray:
    """Pooled states [2, L, D] float64 of one example at several hook points, by its ``sides``.

    One forward of each candidate, whatever the number of hook points. A side with several
    candidates has the mean of theirs; one without any has zeros.
    """
    shape = len(points), model.layout.config.hidden_size
    pooled = []
    for members in row.sides:
        of_side = [_pooled_states(model, row.candidates[c], points) for c in members]
        pooled.append(np.mean(of_side, axis=0) if of_side else np.zeros(shape))
    return np.stack([of_side.reshape(shape) for of_side in pooled])


def _pooled_states(
    model: LoadedModel, candidate: EncodedCandidate, points: Sequence[HookPoint]
) -> np.ndarray:
    """Mean states [L, D] float64 over the pooled positions of one candidate."""
    with forward_only(model.device), capture(model.layout, points) as states:
        _forward(model, candidate.token_ids)
    start, stop = candidate.pooled
    return np.asarray([states[p].cpu()[0, start:stop].double().mean(dim=0).numpy() for p in points])


def reference_norms(
    model: LoadedModel, row: EncodedExample, points: Sequence[HookPoint]
) -> np.ndarray:
    """Norms of the stream [L] float64 at hook points, summed over an example's real positions.

    The positions that the candidates share count once.
    """
    totals = np.zeros(len(points))
    for index, candidate in enumerate(row.candidates):
        with forward_only(model.device), capture(model.layout, points) as states:
            _forward(model, candidate.token_ids)
        counted = slice(row.num_shared if index else 0, candidate.num_real)
        totals += [states[p].cpu()[0, counted].double().norm(dim=-1).sum().item() for p in points]
    return totals


def _width(model: LoadedModel, token_ids: Sequence[int]) -> int:
    """Positions that a sequence is computed with."""
    if not is_xla(model.device):
        return len(token_ids)
    return Buckets(getattr(model.layout.config, "max_position_embeddings", None)).width(
        len(token_ids)
    )


def _padded(values: Sequence[int], width: int, model: LoadedModel) -> Tensor:
    """Values [S] int64, 0 behind those that are given."""
    return upload(torch.tensor([*values, *[0] * (width - len(values))]), model.device)


def _forward(model: LoadedModel, token_ids: Sequence[int]) -> Tensor:
    ids_1S = _padded(token_ids, _width(model, token_ids), model)[None]
    logits: Tensor = model.module(input_ids=ids_1S, use_cache=False).logits[0]
    launch(model.device)
    return logits


def _log_probs(model: LoadedModel, candidate: EncodedCandidate) -> Tensor:
    """Log-probabilities [S, V] float32 of the next token at each position."""
    return torch.log_softmax(_forward(model, candidate.token_ids).float(), dim=-1)


def _read(log_probs_SV: Tensor, model: LoadedModel, candidate: EncodedCandidate) -> Tensor:
    """Those of the positions at which tokens are scored [T, V], on the host."""
    at_T = _padded(candidate.scored_positions, len(log_probs_SV), model)
    return log_probs_SV[at_T].cpu()[: len(candidate.scored_ids)]


def _mean_log_prob(log_probs_SV: Tensor, model: LoadedModel, candidate: EncodedCandidate) -> float:
    at_T = _padded(candidate.scored_positions, len(log_probs_SV), model)
    ids_T = _padded(candidate.scored_ids, len(log_probs_SV), model)
    picked = log_probs_SV[at_T, ids_T].cpu()[: len(candidate.scored_ids)]
    return float(picked.double().mean())
