"""Whether an architecture can be generated with in slots, tried on random tokens."""

from __future__ import annotations

import numpy as np
import torch

from steering_core.generation import Generated, GenerationRow, generate
from steering_core.models import LoadedModel
from steering_core.reference_generation import last_logits, reference_generate
from steering_core.sampling import Sampling

_LENGTHS, _NUM_NEW = (40, 9, 23, 31), 6
_ROUNDING_STEPS = 3
"""By which two logits together may be off in half precision, in steps of the dtype at their size.

In bfloat16, three tiny models of each family that can use slots were off by less than 1; gpt_neo,
which cannot, by 3.5 to 134."""


def slots_problem(model: LoadedModel) -> str | None:
    """Why ``generate`` does not write what ``reference_generate`` writes; None if it does.

    It does not for architectures whose attention does not go by mask and position ids (ALiBi,
    windows by index) or that keep something else than keys and values (recurrences):
    ``reference_generate`` serves them, slowly.

    Raises:
        torch.OutOfMemoryError, torch.AcceleratorError: nothing was learned about the model.
    """
    rng = np.random.default_rng(0)
    vocab_size = int(model.layout.config.vocab_size)
    most = getattr(model.layout.config, "max_position_embeddings", None) or max(_LENGTHS) + _NUM_NEW
    lengths = [min(length, most - _NUM_NEW) for length in _LENGTHS]
    rows = [GenerationRow(tuple(rng.integers(0, vocab_size, n).tolist())) for n in lengths]
    sampling = Sampling(max_new_tokens=_NUM_NEW, eos_ids=(), greedy=True)
    try:
        # Fewer slots than rows: the last ones begin where others have ended.
        found = generate(model, rows, sampling, rows_at_once=2)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # an unknown architecture may refuse masks or a cache in any way
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    problems = (_difference(model, *pair, sampling) for pair in zip(rows, found, strict=True))
    return next((problem for problem in problems if problem is not None), None)


def _difference(
    model: LoadedModel, row: GenerationRow, found: Generated, sampling: Sampling
) -> str | None:
    """How an answer differs from the slow one; None where that is rounding.

    Only the first token that differs says anything: the slow path goes on from another one.
    """
    wanted = reference_generate(model, row, sampling).token_ids
    pairs = zip(found.token_ids, wanted, strict=True)
    first = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if first is None:
        return None
    logits_V = last_logits(model, row, [*row.prompt_ids, *wanted[:first]])[0]
    likeliest = float(logits_V[wanted[first]])
    gap = likeliest - float(logits_V[found.token_ids[first]])
    spread = float(logits_V.std())
    if model.dtype == torch.float32:
        tolerance = 1e-3 * spread
    else:
        # Large logits are rounded coarsely, however little they differ from one another.
        step = torch.finfo(model.dtype).eps * abs(likeliest)
        tolerance = max(0.1 * spread, _ROUNDING_STEPS * step)
    if gap < tolerance:
        return None
    return (
        f"token {first + 1} of a trial answer is less likely than the slow path's by {gap:.2g} in "
        f"logits, and {tolerance:.2g} is allowed in {str(model.dtype).removeprefix('torch.')}"
    )
