"""Capture and change states at hook points, as context managers that leave no hook behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from steering_core.errors import InputError
from steering_core.hook_points import HookPoint
from steering_core.layout import ModelLayout, hidden_of, with_hidden


@contextmanager
def capture(layout: ModelLayout, points: Iterable[HookPoint]) -> Iterator[dict[HookPoint, Tensor]]:
    """While open, every forward stores the state [B, S, D] at each hook point.

    Yields a dict that each forward overwrites; the tensors are the model's own, not copies.

    Raises:
        InputError: a hook point that the model does not have; no hook is set then.
    """
    states: dict[HookPoint, Tensor] = {}

    def store_at(point: HookPoint) -> Callable[[Tensor], None]:
        def store(stream: Tensor) -> None:
            states[point] = stream

        return store

    with change(layout, [(point, store_at(point)) for point in points]):
        yield states


@contextmanager
def add(
    layout: ModelLayout, additions: Sequence[tuple[HookPoint, Tensor, float]]
) -> Iterator[None]:
    """While open, ``coeff * vector`` is added at each hook point, at every position.

    Args:
        additions: (hook point, vector [D], coeff); the vector is not changed. Vectors are
            multiplied in their own dtype, then cast to the stream's.

    Raises:
        InputError: a hook point that the model does not have, or a vector of another width; no hook
            is set then.
    """
    width = layout.config.hidden_size
    for point, vector, _coeff in additions:
        if tuple(vector.shape) != (width,):
            raise InputError(
                f"the vector for {point} has shape {tuple(vector.shape)}, the stream ({width},)"
            )

    def adder(vector: Tensor, coeff: float) -> Callable[[Tensor], Tensor]:
        return lambda stream: stream + (coeff * vector).to(stream)

    with change(layout, [(point, adder(v, c)) for point, v, c in additions]):
        yield


@contextmanager
def change(
    layout: ModelLayout, actions: Sequence[tuple[HookPoint, Callable[[Tensor], Tensor | None]]]
) -> Iterator[None]:
    """While open, each action changes the state [B, S, D] at its hook point; None leaves it.

    Raises:
        InputError: a hook point that the model does not have; no hook is set then.
    """
    places = [(layout.module_at(point), point, action) for point, action in actions]
    with ExitStack() as stack:
        for module, point, action in places:
            if point.site == "resid_pre":
                handle = module.register_forward_pre_hook(_before(action), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_after(action))
            stack.callback(handle.remove)
        yield


def _before(action: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = action(args[0] if args else kwargs["hidden_states"])
        if changed is None:
            return None
        return (
            ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})
        )

    return hook


def _after(action: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        changed = action(hidden_of(output))
        return None if changed is None else with_hidden(output, changed)

    return hook
