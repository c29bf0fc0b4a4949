"""Floating-point operations that scoring needs, counted from shapes: 2 for a multiply-add.

Only matrix products count; norms, activations, soft-caps, softmax and rotary angles do not.

Per row, with T tokens of the packed row up to the last one that is scored, M of them read (their
logits are scored), N blocks, and for a token at position id p the p + 1 keys that it sees::

    linear         2 x entries of a block's weight matrices          per token and block
    keys_values    the part of ``linear`` that makes keys and values
    attention      4 x heads x width of a head                       per (token, key it sees)
    head           2 x entries of the head and what is before it     per position read

    block(T)     = T linear + keys(T) attention
    last block   = T keys_values + M (linear - keys_values) + keys(M) attention
    cell at s    = (N - s - 1) block(T) + last block + M head        s < N: blocks s .. N-1 run
                 = M head                                            s = N: behind the last block
    trunk        = (largest s) block(T), once for all cells; all blocks, where a cell computes
                   only what lies behind an unsteered prefix
    needed       = mean over cells of cell at s, plus trunk / cells

Where the divergence from the unsteered distribution is measured (``kl``), the trunk is all blocks,
the last one as in a cell, and each cell needs M head once more, for the unsteered side.

This is the least that gives exact scores once the candidates share their prefix: attention
over the keys that are seen (a dense product over a mask computes more), the last block's queries,
output and MLP only where a score reads it, and no token behind the last one scored. A sliding
window shorter than a sequence would need less still; mixtures of experts are not counted right.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from steering_core.encoding import EncodedExample
from steering_core.layout import ModelLayout
from steering_core.scoring import Measure


@dataclass(frozen=True, slots=True)
class Costs:
    """Operations of a model's parts (see the module's legend)."""

    num_blocks: int
    linear: int
    keys_values: int
    attention: int
    head: int


@dataclass(frozen=True, slots=True)
class RowNeeds:
    """Tokens of packed rows that scores depend on; sums over rows add up.

    Attributes:
        num_tokens: T.
        num_keys: keys that the T tokens see.
        num_read: M, distinct positions whose logits are scored.
        num_keys_read: keys that the M tokens see.
    """

    num_tokens: int
    num_keys: int
    num_read: int
    num_keys_read: int

    def __add__(self, other: RowNeeds) -> RowNeeds:
        return RowNeeds(
            self.num_tokens + other.num_tokens,
            self.num_keys + other.num_keys,
            self.num_read + other.num_read,
            self.num_keys_read + other.num_keys_read,
        )


NO_NEEDS = RowNeeds(0, 0, 0, 0)


def costs_of(layout: ModelLayout) -> Costs:
    """Operations of a decoder's parts, from its weights and its config."""
    return costs_of_parts(layout.blocks, (*layout.final, layout.head), layout.config)


def costs_of_parts(blocks: Sequence[nn.Module], behind: Sequence[nn.Module], config: Any) -> Costs:
    """Operations of blocks, and of the modules behind them; weights may be on the meta device.

    Attention counts as none where the config names no heads.
    """
    num_heads = int(getattr(config, "num_attention_heads", None) or 0)
    num_kv_heads = int(getattr(config, "num_key_value_heads", None) or num_heads)
    head_width = int(getattr(config, "head_dim", None) or config.hidden_size // max(1, num_heads))
    return Costs(
        num_blocks=len(blocks),
        linear=_products(blocks[0]),
        keys_values=2 * config.hidden_size * 2 * num_kv_heads * head_width,
        attention=4 * num_heads * head_width,
        head=sum(_products(module) for module in behind),
    )


def needs_of(rows: Sequence[EncodedExample]) -> RowNeeds:
    """What the scores of these rows depend on, together."""
    return sum(map(needs_of_row, rows), NO_NEEDS)


def needed_flops(
    costs: Costs,
    needs: RowNeeds,
    streams: Sequence[int],
    behind: RowNeeds | None = None,
    measures: Collection[Measure] = (),
) -> float:
    """Operations that the rows need per cell, the trunk shared by all cells.

    Args:
        streams: for each cell, the stream (0..N) that its vector is added to.
        behind: what a cell computes of the rows, where it leaves their prefix to the trunk.
        measures: what is measured beside scores.
    """
    of_cell = behind or needs
    block, last = _block(costs, of_cell), _last_block(costs, of_cell, needs)
    num_heads = 2 if "kl" in measures else 1
    cells = num_heads * needs.num_read * costs.head * len(streams)
    for stream in streams:
        if stream < costs.num_blocks:
            cells += (costs.num_blocks - stream - 1) * block + last
    if behind is not None:
        trunk = costs.num_blocks * _block(costs, needs)
    elif "kl" in measures:
        trunk = (costs.num_blocks - 1) * block + last
    else:
        trunk = max(streams) * block
    return (cells + trunk) / len(streams)


def plain_flops(costs: Costs, lengths: Sequence[int]) -> int:
    """Operations of a plain forward over sequences of these lengths, full logits, dense attention.

    Dense: every position times every position, as eager attention computes it.
    """
    return sum(
        length * (costs.num_blocks * costs.linear + costs.head)
        + costs.num_blocks * length * length * costs.attention
        for length in lengths
    )


def needs_of_row(row: EncodedExample, since: int = 0) -> RowNeeds:
    """What the scores of one row depend on.

    Args:
        since: first position id that is computed; what lies before is there already.
    """
    ends = [max(c.scored_positions) + 1 for c in row.candidates]
    shared = min(row.num_shared, max(ends))
    since = min(since, shared)
    branches = [max(0, end - shared) for end in ends]
    read = [{p for p in c.scored_positions if p >= shared} for c in row.candidates]
    read_shared = {p for c in row.candidates for p in c.scored_positions if p < shared}
    return RowNeeds(
        num_tokens=shared - since + sum(branches),
        num_keys=_up_to(shared) - _up_to(since) + sum(n * shared + _up_to(n) for n in branches),
        num_read=len(read_shared) + sum(len(own) for own in read),
        num_keys_read=sum(p + 1 for own in (read_shared, *read) for p in own),
    )


def _last_block(costs: Costs, needs: RowNeeds, read: RowNeeds) -> int:
    """Keys and values of every token, the rest only where a score reads it."""
    return (
        needs.num_tokens * costs.keys_values
        + read.num_read * (costs.linear - costs.keys_values)
        + read.num_keys_read * costs.attention
    )


def _block(costs: Costs, needs: RowNeeds) -> int:
    return needs.num_tokens * costs.linear + needs.num_keys * costs.attention


def _products(module: nn.Module) -> int:
    return sum(2 * p.numel() for p in module.parameters() if p.dim() == 2)


def _up_to(n: int) -> int:
    return n * (n + 1) // 2
