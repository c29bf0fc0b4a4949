"""What an architecture can do of what the engine would like to, tried on random tokens."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from steering_core.batch_steering import steering_of
from steering_core.encoding import EncodedCandidate, EncodedExample
from steering_core.engine import Engine
from steering_core.hook_points import HookPoint
from steering_core.interventions import Intervention
from steering_core.models import LoadedModel
from steering_core.packing import lay_out
from steering_core.placing import place
from steering_core.prefix_reuse import fork_behind_prefix, run_prefix_trunk
from steering_core.protocol import Protocol
from steering_core.scoring import Measure
from steering_core.stereoset import LABELS, Example
from steering_core.trunk import fork, run_trunk
from steering_core.xla import forward_only

_PREFIX, _BRANCHES = 280, (9, 7, 8)


def engine_for(
    model: LoadedModel,
    protocol: Protocol,
    kernels: Collection[str] = (),
    measures: Collection[Measure] = (),
) -> Engine:
    """The engine with everything that the model's architecture allows, and these kernels."""
    max_tokens = getattr(model.layout.config, "max_position_embeddings", None)
    is_packed = can_pack(model, max_tokens)
    reuses_prefix = (
        is_packed and protocol.leaves_prefix_alone and can_reuse_prefix(model, max_tokens)
    )
    return Engine(
        model,
        protocol,
        is_packed=is_packed,
        reuses_prefix=reuses_prefix,
        kernels=kernels,
        measures=measures,
    )


def can_pack(model: LoadedModel, max_tokens: int | None) -> bool:
    """Whether a packed row gives what its sequences give one by one.

    False for architectures whose attention does not go by mask and position ids (ALiBi, windows by
    index, recurrences); they run as separate sequences.
    """
    row = random_row(model, max_tokens=max_tokens)
    last = HookPoint(model.layout.num_blocks - 1, "resid_post")

    def left(*, is_packed: bool) -> Tensor:
        batch = place(lay_out([row], [0], is_packed=is_packed), model.device)
        return run_trunk(model, batch, {last}).states[last]

    with forward_only(model.device):
        try:
            packed = left(is_packed=True)
        except Exception:  # an unknown architecture may refuse a tree mask in any way
            return False
        apart = left(is_packed=False)
    own = [len(c.token_ids) - row.num_shared for c in row.candidates]
    wanted = [apart[i, row.num_shared :][:length] for i, length in enumerate(own)]
    return _agree(packed[0, row.num_shared :], torch.cat(wanted))


def can_reuse_prefix(model: LoadedModel, max_tokens: int | None) -> bool:
    """Whether a fork that computes the steered positions alone gives what a whole one gives.

    False for architectures that keep more, or something else, than keys and values; there, and
    where rows are not packed, every position is computed again.
    """
    batch = place(lay_out([random_row(model, max_tokens=max_tokens)], [0]), model.device)
    point = HookPoint(model.layout.num_blocks // 2, "resid_pre")
    vector = np.random.default_rng(1).standard_normal(model.layout.config.hidden_size)
    steered = Intervention(point, vector.astype(np.float32), 1.0, positions="candidate")
    changes = steering_of([steered], batch.host, model.device)
    with forward_only(model.device):
        whole = fork(model, run_trunk(model, batch, {point}), batch, changes)
        try:
            trunk = run_prefix_trunk(model, batch, {point}, "candidate")
            behind = fork_behind_prefix(model, trunk, batch, changes)
        except Exception:  # as above
            return False
    read_at = batch.read_at.to(whole.device)
    return _agree(behind.flatten(0, 1)[read_at], whole.flatten(0, 1)[read_at])


def random_row(
    model: LoadedModel, num_prefix: int = _PREFIX, *, max_tokens: int | None = None, seed: int = 0
) -> EncodedExample:
    """Three random candidates behind a prefix, whose every own token is read.

    Args:
        num_prefix: tokens of the prefix, fewer if the model takes no more than ``max_tokens``.
    """
    rng = np.random.default_rng(seed)
    prefix = min(num_prefix, (max_tokens or num_prefix + 9) - max(_BRANCHES))
    ids = rng.integers(0, int(model.layout.config.vocab_size), prefix + sum(_BRANCHES))
    own_ids = np.split(ids[prefix:], np.cumsum(_BRANCHES)[:-1])
    a, b, c = (
        EncodedCandidate(
            token_ids=(*ids[:prefix], *own),
            scored_positions=tuple(range(prefix, prefix + len(own))),
            scored_ids=(0,) * len(own),
            pooled=(0, prefix),
            num_question=prefix,
            num_real=prefix + len(own),
        )
        for own in own_ids
    )
    text = Example("probe", "", "", "", "", ("", "", ""), (LABELS[0], LABELS[1], LABELS[2]))
    return EncodedExample(text, prefix, (a, b, c))


def _agree(found: Tensor, wanted: Tensor) -> bool:
    gap = (found - wanted).float().norm() / wanted.float().norm()
    return bool(gap < (1e-3 if wanted.dtype == torch.float32 else 0.1))
