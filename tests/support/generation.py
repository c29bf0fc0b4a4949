"""Steered generation written by hand, beside which the fast one is held: one prompt, one hook."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from steering_core.generation import GenerationRow
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.models import LoadedModel
from tests.support.golden import on_cpu
from tests.support.tiny_models import random_model

VOCAB, WIDTH, NUM_BLOCKS = 331, 64, 4
FAMILIES = ("llama", "qwen2", "gemma2")


@cache
def model_of(family: str) -> LoadedModel:
    return on_cpu(random_model(family, VOCAB, seed=3), family)


def vector_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


def prompt_of(seed: int, num: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, VOCAB, num))


def row_of(number: int, positions: Any, **changed: Any) -> GenerationRow:
    """A row whose length, block, vector, coefficient and operation go with its number."""
    operations = ("add", "add", "add", "project_out", "cap_above", "cap_below")
    steering = Intervention(
        HookPoint(number % NUM_BLOCKS, "resid_post"),
        vector_of(number),
        coeff=(-3.0, 0.0, 1.5, 4.0)[number % 4],
        operation=operations[number % 6],  # type: ignore[arg-type]
    )
    options: dict[str, Any] = {"steering": steering, "positions": positions, "seed": number}
    return GenerationRow(prompt_of(number, 2 + 7 * number % 29), **(options | changed))


def greedy_by_hand(
    model: LoadedModel,
    prompt_ids: tuple[int, ...],
    num_new: int,
    block: int | None = None,
    vector: np.ndarray | None = None,
    coeff: float = 0.0,
    positions: str = "all",
) -> list[int]:
    """The likeliest tokens, one prompt and one token at a time, with transformers' own cache."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        step = coeff * torch.from_numpy(vector)
        if positions == "all" or (positions == "prompt" and hidden.shape[1] > 1):
            hidden += step
        elif positions == "response":
            hidden[:, -1] += step
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    found: list[int] = []
    cache_, ids = DynamicCache(config=model.module.config), torch.tensor([prompt_ids])
    handle = None
    if block is not None:
        handle = model.layout.blocks[block].register_forward_hook(hook)
    try:
        with torch.inference_mode():
            while len(found) < num_new:
                output = model.module(input_ids=ids, past_key_values=cache_, use_cache=True)
                found.append(int(output.logits[0, -1].argmax()))
                ids = torch.tensor([found[-1:]])
    finally:
        if handle is not None:
            handle.remove()
    return found
