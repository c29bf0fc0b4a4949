"""Tokens that really went through the blocks and the head, counted where they go in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

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
    """While open, positions that enter a block or the head are counted; no hook is left behind."""
    counts = Counts()

    def at_block(num: int) -> None:
        counts.block_tokens += num

    def at_head(num: int) -> None:
        counts.head_tokens += num

    with ExitStack() as stack:
        for module, to in ((layout.head, at_head), *((b, at_block) for b in layout.blocks)):
            handle = module.register_forward_pre_hook(_counting(to), with_kwargs=True)
            stack.callback(handle.remove)
        yield counts


def _counting(to: Callable[[int], None]) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        to(entering.numel() // entering.shape[-1])

    return hook
