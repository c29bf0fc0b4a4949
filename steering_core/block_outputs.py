"""Which modules of a block add to the residual stream, found by what they add up to.

No module is known by name: of all outputs inside a block, two in the order in which they are
computed, attention's and MLP's, sum with the block's input to its output. Whether norms stand
before, behind or around them, and whether they run one after the other or in parallel, is all one.
A block that scales its parts outside of a module, or adds the stream inside of one, has no such
pair; nothing can be read or steered there but the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockOutputs:
    """The modules whose outputs [B, S, D] a block adds to the stream."""

    attn_out: nn.Module
    mlp_out: nn.Module


@contextmanager
def found_block_outputs(blocks: Sequence[nn.Module]) -> Iterator[list[BlockOutputs | None]]:
    """While open, a forward appends what it shows of each block, None where no pair adds up."""
    found: list[BlockOutputs | None] = []
    outputs: list[tuple[nn.Module, Tensor]] = []
    entered: list[Tensor] = []

    def on_entry(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered[:] = [args[0] if args else kwargs["hidden_states"]]
        outputs.clear()

    def on_output(module: nn.Module, _args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) and output else output
        if isinstance(hidden, Tensor) and hidden.shape == entered[0].shape:
            outputs.append((module, hidden))

    def on_exit(_block: nn.Module, _args: Any, output: Any) -> None:
        left = output[0] if isinstance(output, tuple) else output
        # What enters the first block of a device still lies on the one before.
        found.append(_pair(outputs, entered[0].to(left.device), left))
        outputs.clear()

    with ExitStack() as stack:
        for block in blocks:
            before = block.register_forward_pre_hook(on_entry, with_kwargs=True)
            stack.callback(before.remove)
            for module in block.modules():
                if module is not block:
                    stack.callback(module.register_forward_hook(on_output).remove)
            stack.callback(block.register_forward_hook(on_exit).remove)
        yield found


def _pair(
    outputs: Sequence[tuple[nn.Module, Tensor]], entered: Tensor, left: Tensor
) -> BlockOutputs | None:
    """The pair that adds up best; of equals the outermost modules, which end last.

    A right pair is off by the rounding of the stream, which must be small compared with what is
    added. In half precision it often is not, where an entry of the stream is large: then a pair
    adds up only in the order in which the block adds.
    """
    rounding = 4 * torch.finfo(left.dtype).eps * float(left.abs().max())
    best, smallest = None, min(rounding, 0.1 * float((left - entered).abs().max()))
    for (first, a), (second, b) in combinations(outputs, 2):
        sums = (entered + a + b, a + b + entered, entered + b + a)
        gap = min(float((left - added).abs().max()) for added in sums)
        if gap <= smallest:
            best, smallest = BlockOutputs(attn_out=first, mlp_out=second), gap
    return best
