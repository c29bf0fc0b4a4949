"""Whether an architecture can be generated with in slots, tried on random tokens."""

from __future__ import annotations

import numpy as np

from steering_core.generation import Generated, GenerationRow, generate
from steering_core.models import LoadedModel
from steering_core.reference_generation import last_logits, reference_generate
from steering_core.sampling import Sampling

_LENGTHS, _NUM_NEW = (40, 9, 23, 31), 6


def can_use_slots(model: LoadedModel) -> bool:
    """Whether ``generate`` writes what ``reference_generate`` writes, one row at a time.

    False for architectures whose attention does not go by mask and position ids (ALiBi, windows by
    index) or that keep something else than keys and values (recurrences): ``reference_generate``
    serves them, slowly.
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
    except Exception:  # an unknown architecture may refuse masks or a cache in any way
        return False
    return all(_agrees(model, *pair, sampling) for pair in zip(rows, found, strict=True))


def _agrees(model: LoadedModel, row: GenerationRow, found: Generated, sampling: Sampling) -> bool:
    """Whether an answer is the slow one, up to where two tokens are as likely within rounding."""
    wanted = reference_generate(model, row, sampling).token_ids
    pairs = zip(found.token_ids, wanted, strict=True)
    first = next((n for n, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    if first is None:
        return True
    logits_V = last_logits(model, row, [*row.prompt_ids, *wanted[:first]])[0]
    gap = logits_V[wanted[first]] - logits_V[found.token_ids[first]]
    tolerance = 1e-3 if str(model.dtype) == "torch.float32" else 0.1
    return bool(gap < tolerance * logits_V.std())
