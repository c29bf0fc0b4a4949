"""What a model holds of answers that are written: mean states of prompt and answer, every block.

Where the answer begins is known from token ids: prompt and answer are kept apart and joined here,
never encoded again as one text.

Shapes: N rows, B rows and S positions of a batch, L blocks, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steering_core.hook_points import HookPoint
from steering_core.hooks import observe
from steering_core.models import LoadedModel
from steering_core.placing import upload
from steersweep.errors import UserError


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    """A prompt and the answer to it, as token ids; the answer without what ended it."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ResponseStates:
    """States at ``resid_post`` of every block; index ``l`` is layer ``l + 1``.

    Attributes:
        kept: [N] int64, the rows these are of: those whose answer is not empty, in order.
        num_empty: rows that were dropped, their answer being empty.
        response_mean: [N, L, D] float64, mean over the answer's tokens.
        prompt_mean: [N, L, D] float64, mean over the prompt's tokens.
        prompt_last: [N, L, D] float64, at the prompt's last token.
    """

    kept: np.ndarray
    num_empty: int
    response_mean: np.ndarray
    prompt_mean: np.ndarray
    prompt_last: np.ndarray


def collect_response_states(
    model: LoadedModel, rows: Sequence[AnsweredPrompt], tokens_per_batch: int
) -> ResponseStates:
    """States of the rows, unsteered, in one forward for each batch; sums are in float64.

    Args:
        tokens_per_batch: positions of one forward, padding included; a longer row runs alone.

    Raises:
        UserError: an empty prompt or a row longer than the model's context, by number.
    """
    layout = model.layout
    max_tokens = getattr(layout.config, "max_position_embeddings", None)
    for number, row in enumerate(rows):
        num = len(row.prompt_ids) + len(row.answer_ids)
        if not row.prompt_ids:
            raise UserError(f"row {number} has an empty prompt")
        if max_tokens is not None and num > max_tokens:
            raise UserError(
                f"row {number} has {num} tokens, more than the {max_tokens} positions of "
                f"{model.name}"
            )
    kept = [number for number, row in enumerate(rows) if row.answer_ids]
    place_of = {number: place for place, number in enumerate(kept)}
    found = np.empty((3, len(kept), layout.num_blocks, int(layout.config.hidden_size)))
    for numbers in _batches(rows, kept, tokens_per_batch):
        chosen = [rows[number] for number in numbers]
        found[:, [place_of[number] for number in numbers]] = _of_batch(model, chosen)
    return ResponseStates(np.asarray(kept, np.int64), len(rows) - len(kept), *found)


def _batches(
    rows: Sequence[AnsweredPrompt], kept: Sequence[int], tokens_per_batch: int
) -> Iterator[list[int]]:
    """Numbers of rows that run together, longest first."""

    def length(number: int) -> int:
        return len(rows[number].prompt_ids) + len(rows[number].answer_ids)

    left = sorted(kept, key=lambda number: (-length(number), number))
    while left:
        num = max(1, tokens_per_batch // length(left[0]))
        yield left[:num]
        left = left[num:]


def _of_batch(model: LoadedModel, rows: Sequence[AnsweredPrompt]) -> np.ndarray:
    """Response mean, prompt mean, prompt last [3, B, L, D] float64."""
    longest = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    ids_BS = np.zeros((len(rows), longest), np.int64)
    weights_3BS = np.zeros((3, len(rows), longest))
    for index, row in enumerate(rows):
        num_prompt, num_answer = len(row.prompt_ids), len(row.answer_ids)
        # A causal mask hides what stands behind a row's end.
        ids_BS[index, : num_prompt + num_answer] = row.prompt_ids + row.answer_ids
        weights_3BS[0, index, num_prompt : num_prompt + num_answer] = 1 / num_answer
        weights_3BS[1, index, :num_prompt] = 1 / num_prompt
        weights_3BS[2, index, num_prompt - 1] = 1.0
    means: list[Tensor] = []
    points = [HookPoint(block, "resid_post") for block in range(model.layout.num_blocks)]
    add_up = _summing(means, weights_3BS)
    with torch.inference_mode(), observe(model.layout, [(p, add_up) for p in points]):
        input_ids = upload(torch.from_numpy(ids_BS), model.device)
        model.layout.decoder(input_ids=input_ids, use_cache=False)
    return np.stack([mean_3BD.cpu().numpy() for mean_3BD in means], axis=2)


def _summing(into: list[Tensor], weights_3BS: np.ndarray) -> Callable[[Tensor], None]:
    """Blocks run in order, so the list fills in theirs; no state outlives its block."""
    placed: dict[Any, Tensor] = {}

    def add_up(resid_BSD: Tensor) -> None:
        has_float64 = resid_BSD.device.type in ("cpu", "cuda")
        resid_BSD = (resid_BSD if has_float64 else resid_BSD.cpu()).double()
        device = resid_BSD.device
        if device not in placed:
            placed[device] = upload(torch.from_numpy(weights_3BS), device)
        into.append(torch.einsum("kbs,bsd->kbd", placed[device], resid_BSD))

    return add_up
