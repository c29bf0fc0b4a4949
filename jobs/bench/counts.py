"""Tokens that really went through the blocks and the head, counted where they go in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from steering_core.layout import ModelLayout


@dataclass
class Counts:
    """Positions, padding included.

    Attributes:
        block_tokens: summed over calls of a block: one position through one block is 1.
        head_tokens: positions that went through the head.
    """

    block_tokens: int = 0
    head_tokens: int = 0


@contextmanager
def counted(layout: ModelLayout) -> Iterator[Counts]:
    """While open, positions that enter a block or the head are counted; no hook is left behind.

    A model's own forward hands the head [R, S, D]. The engine hands flat [M, D] streams to the
    modules behind the blocks and multiplies with slices of the head's matrix, so its positions are
    counted at the first of those modules.
    """
    counts = Counts()

    def at_block(entering: Tensor) -> None:
        counts.block_tokens += entering.shape[:-1].numel()

    def at_head(entering: Tensor) -> None:
        if entering.dim() > 2:
            counts.head_tokens += entering.shape[:-1].numel()

    def behind_blocks(entering: Tensor) -> None:
        if entering.dim() == 2:
            counts.head_tokens += len(entering)

    first_behind = (*layout.final, layout.head)[0]
    hooked = [(layout.head, at_head), (first_behind, behind_blocks)]
    with ExitStack() as stack:
        for module, to in (*hooked, *((b, at_block) for b in layout.blocks)):
            handle = module.register_forward_pre_hook(_handing(to), with_kwargs=True)
            stack.callback(handle.remove)
        yield counts


def _handing(to: Callable[[Tensor], None]) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        to(args[0] if args else kwargs["hidden_states"])

    return hook
