"""The slow, obvious way to write a steered answer: what ``generate`` is held against.

Shapes: S positions, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steering_core.generation import (
    Generated,
    GenerationRow,
    num_new_tokens,
    steered_prompt_positions,
)
from steering_core.hooks import change
from steering_core.interventions import intervene
from steering_core.models import LoadedModel
from steering_core.sampling import Sampling, choose, random_stream


def reference_generate(model: LoadedModel, row: GenerationRow, sampling: Sampling) -> Generated:
    """One answer: for each token the whole sequence through the model's own forward, with a hook.

    No batch, no padding, no cache.
    """
    ids = list(row.prompt_ids)
    num_new = num_new_tokens(row, sampling)
    draws = torch.from_numpy(random_stream(row.seed, num_new))
    for index in range(num_new):
        logits_1V = last_logits(model, row, ids)
        draw = draws[index : index + 1].to(logits_1V.device)
        token = int(choose(logits_1V, draw, sampling))
        if token in sampling.eos_ids:
            return Generated(tuple(ids[len(row.prompt_ids) :]), "eos")
        ids.append(token)
    return Generated(tuple(ids[len(row.prompt_ids) :]), "length")


def last_logits(model: LoadedModel, row: GenerationRow, ids: list[int]) -> Tensor:
    """Float32 logits [1, V] behind the last token."""
    return steered_logits(model, row, ids, 1)


def steered_logits(model: LoadedModel, row: GenerationRow, ids: list[int], num: int) -> Tensor:
    """Float32 logits [num, V] behind the last tokens of a prompt and what follows it."""
    steering = row.steering

    def steer(resid_1SD: Tensor) -> Tensor:
        assert steering is not None
        steered = torch.zeros(resid_1SD.shape[1], dtype=torch.bool)
        steered[: len(row.prompt_ids)][steered_prompt_positions(row)] = True
        steered[len(row.prompt_ids) :] = row.positions != "prompt"
        vector = torch.from_numpy(steering.vector).to(resid_1SD.device)
        changed = intervene(steering.operation, resid_1SD, vector, steering.coeff)
        return torch.where(steered[None, :, None].to(resid_1SD.device), changed, resid_1SD)

    changes = [] if steering is None else [(steering.point, steer)]
    with torch.inference_mode(), change(model.layout, changes):
        input_ids = torch.tensor([ids], device=model.device)
        logits_1SV: Tensor = model.module(input_ids=input_ids, use_cache=False).logits
    return logits_1SV[0, -num:].float()
