"""Record each block's call once, then repeat any of them on another stream.

What an architecture hands its blocks beside the stream (mask, rotary embeddings, position ids)
does not depend on the stream, so a recorded call can be repeated after steering, and only the
blocks above the steered one need to run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from steering_core.layout import ModelLayout, hidden_of

BlockCall = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def recorded_calls(
    layout: ModelLayout, on_call: Callable[[int, Tensor], None]
) -> Iterator[list[BlockCall]]:
    """While open, each block's call is recorded and its input stream handed to ``on_call``.

    Yields a list that fills, in block order, with the positional and keyword arguments *behind*
    the stream (mask, rotary embeddings, position ids), so that ``replay`` can call the block again
    with another stream whatever the architecture passes. All hooks are gone afterwards.
    """
    calls: list[BlockCall] = []

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            stream, rest, named = args[0], args[1:], kwargs
        else:
            named = dict(kwargs)
            stream, rest = named.pop("hidden_states"), ()
        on_call(len(calls), stream)
        calls.append((rest, named))

    with ExitStack() as stack:
        for block in layout.blocks:
            handle = block.register_forward_pre_hook(record, with_kwargs=True)
            stack.callback(handle.remove)
        yield calls


def replay(block: nn.Module, call: BlockCall, stream: Tensor) -> Tensor:
    """What a block leaves when its recorded call is repeated on another stream."""
    rest, named = call
    return hidden_of(block(stream, *rest, **named))
