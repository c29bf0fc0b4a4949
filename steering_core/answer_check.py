"""Whether a stored answer is what the plain forward pass would have written, token by token.

Shapes: T tokens of an answer, with the one that ended it; V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steering_core.generation import Generated, GenerationRow
from steering_core.models import LoadedModel
from steering_core.reference_generation import steered_logits
from steering_core.sampling import Sampling, choice_probs, choose, random_stream


@dataclass(frozen=True)
class AnswerCheck:
    """What came of one answer.

    Attributes:
        num_tokens: that were checked, the one that ended it included.
        num_other: where the plain pass chooses another one.
        furthest: over those, the largest change of probability that would make it choose the
            stored one: rounding for a token that lies on the border, near 1 for a wrong one.
    """

    num_tokens: int
    num_other: int
    furthest: float


def check_answer(
    model: LoadedModel, row: GenerationRow, answer: Generated, sampling: Sampling
) -> AnswerCheck:
    """Hold an answer against one plain forward of it, with a hook, without cache or batch.

    Each token is checked behind the stored ones, so that a token on the border of two does not
    make all that follow it count.
    """
    ids = [*row.prompt_ids, *answer.token_ids]
    has_end = answer.ended_by == "eos"
    num = len(answer.token_ids) + has_end
    # The logits behind the last token of an answer that was cut off chose nothing.
    logits_TV = steered_logits(model, row, ids, len(answer.token_ids) + 1)[:num]
    draws_T = torch.from_numpy(random_stream(row.seed, num)).to(logits_TV.device)
    chosen_T = choose(logits_TV, draws_T, sampling).tolist()
    distances = []
    for at, chosen in enumerate(chosen_T):
        is_end = at == len(answer.token_ids)
        wanted = sampling.eos_ids if is_end else (answer.token_ids[at],)
        if chosen not in wanted:
            logits_1V, draw = logits_TV[at : at + 1], float(draws_T[at])
            distances.append(min(_distance(logits_1V, draw, t, sampling) for t in wanted))
    return AnswerCheck(num, len(distances), max(distances, default=0.0))


def _distance(logits_1V: Tensor, draw: float, token: int, sampling: Sampling) -> float:
    """How much probability lies between the choice and a token."""
    probs_V = choice_probs(logits_1V, sampling)[0].double()
    probs_V = probs_V / probs_V.sum()
    if sampling.greedy:
        return float(probs_V.max() - probs_V[token])
    if probs_V[token] == 0:
        return 1.0
    high = float(probs_V[: token + 1].sum())
    return max(high - float(probs_V[token]) - draw, draw - high, 0.0)
