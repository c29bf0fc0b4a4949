"""Capture and change states at hook points, as context managers that leave no hook behind.

PyTorch runs the hooks of a module in a list. What changes a state is put at the front of it, what
reads a state at the end. So whoever reads sees the changed state, whichever was opened first; and
so does Transformers, which puts hooks of its own at the end when a model is first called with
``output_hidden_states=True``, and leaves them there: a change that was appended later would be
missing from what it records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from steering_core.hook_points import HookPoint
from steering_core.layout import ModelLayout, hidden_of, with_hidden
from steersweep.errors import UserError


@contextmanager
def capture(layout: ModelLayout, points: Iterable[HookPoint]) -> Iterator[dict[HookPoint, Tensor]]:
    """While open, every forward stores the state [B, S, D] at each hook point.

    The states are those after every change that is open, whether it was opened before or after.
    Yields a dict that each forward overwrites; the tensors are the model's own, not copies.

    Raises:
        UserError: a hook point that the model does not have; no hook is set then.
    """
    states: dict[HookPoint, Tensor] = {}

    def store_at(point: HookPoint) -> Callable[[Tensor], None]:
        def store(stream: Tensor) -> None:
            states[point] = stream

        return store

    with observe(layout, [(point, store_at(point)) for point in points]):
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
        UserError: a hook point that the model does not have, or a vector of another width; no hook
            is set then.
    """
    width = layout.config.hidden_size
    for point, vector, _coeff in additions:
        if tuple(vector.shape) != (width,):
            raise UserError(
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

    Actions at one hook point run in the order given. Of two changes at one hook point, the one that
    was opened last runs first.

    Raises:
        UserError: a hook point that the model does not have; no hook is set then.
    """
    # Each hook goes to the front of those before it: the last action has to be the first to go.
    with _hooked(layout, list(reversed(actions)), at_front=True):
        yield


@contextmanager
def observe(
    layout: ModelLayout, readers: Sequence[tuple[HookPoint, Callable[[Tensor], None]]]
) -> Iterator[None]:
    """While open, each reader is called with the state [B, S, D] at its hook point.

    The states are those after every change that is open, whether it was opened before or after.

    Raises:
        UserError: a hook point that the model does not have; no hook is set then.
    """
    with _hooked(layout, readers, at_front=False):
        yield


@contextmanager
def _hooked(
    layout: ModelLayout,
    actions: Sequence[tuple[HookPoint, Callable[[Tensor], Tensor | None]]],
    *,
    at_front: bool,
) -> Iterator[None]:
    places = [(layout.module_at(point), point, action) for point, action in actions]
    with ExitStack() as stack:
        for module, point, action in places:
            if point.site == "resid_pre":
                handle = module.register_forward_pre_hook(
                    _before(action), with_kwargs=True, prepend=at_front
                )
            else:
                handle = module.register_forward_hook(_after(action), prepend=at_front)
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
