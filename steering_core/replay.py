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
def recorded_calls(layout: ModelLayout, num_run: int) -> Iterator[list[BlockCall]]:
    """While open, each block's call is recorded.

    Only the first ``num_run`` blocks run; those above are called too, since their calls are needed,
    but hand on the stream they get (where blocks return a bare tensor; elsewhere they run as well).

    Yields a list that fills, in block order, with the positional and keyword arguments *behind*
    the stream (mask, rotary embeddings, position ids), so that ``replay`` can call the block again
    with another stream whatever the architecture passes. All hooks are gone afterwards.
    """
    calls: list[BlockCall] = []

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            calls.append((args[1:], kwargs))
        else:
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            calls.append(((), named))

    with ExitStack() as stack:
        for block in layout.blocks:
            handle = block.register_forward_pre_hook(record, with_kwargs=True)
            stack.callback(handle.remove)
        if not layout.blocks_return_tuples:
            for block in layout.blocks[num_run:]:
                stack.enter_context(forward_replaced(block, lambda stream, *_, **__: stream))
        yield calls


def replay(block: nn.Module, call: BlockCall, stream: Tensor) -> Tensor:
    """What a block leaves when its recorded call is repeated on another stream."""
    rest, named = call
    return hidden_of(block(stream, *rest, **named))


@contextmanager
def only_at(module: nn.Module | None, positions_M: Tensor) -> Iterator[None]:
    """While open, a position-wise module computes only flat positions [M] of its input [R, S, D].

    Its output is 0 at the others. Does nothing for None. The module's hooks see all positions,
    whatever their order: steering may sit on the same module.
    """
    if module is None:
        yield
        return
    forward = module.forward

    def at_positions(hidden_RSD: Tensor) -> Tensor:
        num_rows, num_positions, width = hidden_RSD.shape
        positions = positions_M.to(hidden_RSD.device)
        output_1MD: Tensor = forward(hidden_RSD.reshape(1, -1, width)[:, positions])
        whole = output_1MD.new_zeros((num_rows * num_positions, output_1MD.shape[-1]))
        whole[positions_M.to(whole.device)] = output_1MD[0]
        return whole.view(num_rows, num_positions, -1)

    with forward_replaced(module, at_positions):
        yield


_ABSENT = object()


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While open, a module's own ``forward`` is another; its hooks run as before."""
    before = vars(module).get("forward", _ABSENT)
    module.forward = forward
    try:
        yield
    finally:
        if before is _ABSENT:
            del module.forward
        else:
            module.forward = before
