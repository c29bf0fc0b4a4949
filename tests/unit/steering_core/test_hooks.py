"""Capture and add on a stack of blocks in every form that transformers has them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steering_core.hook_points import HookPoint
from steering_core.hooks import add, capture, change
from steering_core.layout import ModelLayout
from steersweep.errors import UserError

WIDTH, NUM_BLOCKS = 4, 3
VECTOR = torch.tensor([1.0, -2.0, 0.5, 3.0])


class Block(nn.Module):
    """Adds something that depends on the stream; returns it as a tensor or first in a tuple."""

    def __init__(self, returns_tuple: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.returns_tuple = returns_tuple

    def forward(self, hidden_states: Tensor, mask: str) -> Any:
        hidden_states = hidden_states + torch.tanh(self.linear(hidden_states))
        return (hidden_states, mask) if self.returns_tuple else hidden_states


class Stack(nn.Module):
    """Calls its blocks with the stream by position or by keyword."""

    def __init__(self, *, returns_tuple: bool = False, by_keyword: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(returns_tuple) for _ in range(NUM_BLOCKS))
        self.by_keyword = by_keyword
        self.masks: list[str] = []
        self.requires_grad_(False)

    def forward(self, stream: Tensor) -> Tensor:
        for block in self.blocks:
            if self.by_keyword:
                output = block(hidden_states=stream, mask="m")
            else:
                output = block(stream, "m")
            if isinstance(output, tuple):
                stream, mask = output
                self.masks.append(mask)
            else:
                stream = output
        return stream


def layout_of(stack: Stack) -> ModelLayout:
    config = SimpleNamespace(hidden_size=WIDTH)
    return ModelLayout(stack, tuple(stack.blocks), (), nn.Identity(), config=config)


def num_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def by_hand(stack: Stack, stream: Tensor, additions: dict[str, Tensor]) -> dict[str, Tensor]:
    """Streams at every hook point, without a hook."""
    streams = {}
    for index, block in enumerate(stack.blocks):
        for site in ("resid_pre", "resid_post"):
            if site == "resid_post":
                stream = stream + torch.tanh(block.linear(stream))
            name = f"blocks.{index}.{site}"
            stream = stream + additions.get(name, 0.0)
            streams[name] = stream
    return streams


@pytest.fixture
def stream() -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[(t, k) for t in (False, True) for k in (False, True)], ids=str)
def stack(request: pytest.FixtureRequest) -> Stack:
    returns_tuple, by_keyword = request.param
    return Stack(returns_tuple=returns_tuple, by_keyword=by_keyword)


ALL_POINTS = [HookPoint(b, s) for b in range(NUM_BLOCKS) for s in ("resid_pre", "resid_post")]


def test_capture_holds_the_stream_at_every_hook_point(stack: Stack, stream: Tensor) -> None:
    wanted = by_hand(stack, stream, {})
    with capture(layout_of(stack), ALL_POINTS) as states:
        output = stack(stream)
    assert list(states) == ALL_POINTS
    for point, state in states.items():
        torch.testing.assert_close(state, wanted[str(point)])
    torch.testing.assert_close(output, wanted["blocks.2.resid_post"])
    assert num_hooks(stack) == 0


@pytest.mark.parametrize("point", ALL_POINTS, ids=str)
def test_add_changes_the_stream_there_and_everything_above(
    stack: Stack, stream: Tensor, point: HookPoint
) -> None:
    wanted = by_hand(stack, stream, {str(point): -1.5 * VECTOR})
    plain = by_hand(stack, stream, {})
    with add(layout_of(stack), [(point, VECTOR, -1.5)]), capture(layout_of(stack), ALL_POINTS) as s:
        output = stack(stream)
    torch.testing.assert_close(output, wanted["blocks.2.resid_post"])
    assert not torch.allclose(output, plain["blocks.2.resid_post"])
    for other, state in s.items():
        torch.testing.assert_close(state, wanted[str(other)])
    assert num_hooks(stack) == 0


@pytest.mark.parametrize("point", ALL_POINTS, ids=str)
def test_a_state_is_read_after_it_was_changed_whichever_was_opened_first(
    stack: Stack, stream: Tensor, point: HookPoint
) -> None:
    layout, wanted = layout_of(stack), by_hand(stack, stream, {str(point): 2 * VECTOR})[str(point)]
    steering = [(point, VECTOR, 2.0)]
    for first, then in (
        (capture(layout, [point]), add(layout, steering)),
        (add(layout, steering), capture(layout, [point])),
    ):
        with first as one, then as other:
            stack(stream)
        torch.testing.assert_close((one or other)[point], wanted)


def test_changes_run_in_the_order_given_and_the_one_opened_last_first(
    stack: Stack, stream: Tensor
) -> None:
    layout = layout_of(stack)
    for point in ALL_POINTS:
        ran: list[str] = []
        a, b, c = ((point, lambda _state, n=n, ran=ran: ran.append(n)) for n in "abc")
        with change(layout, [a, b]), change(layout, [c]):
            stack(stream)
        assert ran == ["c", "a", "b"], point


def test_what_stands_beside_the_stream_is_handed_on(stream: Tensor) -> None:
    stack = Stack(returns_tuple=True)
    with add(layout_of(stack), [(p, VECTOR, 1.0) for p in ALL_POINTS]):
        stack(stream)
    assert stack.masks == ["m"] * NUM_BLOCKS


def test_additions_at_several_points_and_twice_at_one_add_up(stack: Stack, stream: Tensor) -> None:
    low, high = HookPoint(0, "resid_pre"), HookPoint(1, "resid_post")
    other = torch.flip(VECTOR, [0])
    wanted = by_hand(stack, stream, {str(low): 3 * VECTOR, str(high): 2 * VECTOR - other})
    with add(layout_of(stack), [(low, VECTOR, 3.0), (high, VECTOR, 2.0), (high, other, -1.0)]):
        torch.testing.assert_close(stack(stream), wanted["blocks.2.resid_post"])


def test_callers_vectors_and_input_are_not_changed(stack: Stack, stream: Tensor) -> None:
    vector, before = VECTOR.clone(), stream.clone()
    with add(layout_of(stack), [(p, vector, 7.0) for p in ALL_POINTS]):
        stack(stream)
    assert torch.equal(vector, VECTOR)
    assert torch.equal(stream, before)


def test_baseline_is_bit_equal_after_steering(stack: Stack, stream: Tensor) -> None:
    before = stack(stream)
    with add(layout_of(stack), [(p, VECTOR, 7.0) for p in ALL_POINTS]):
        assert not torch.equal(stack(stream), before)
    assert torch.equal(stack(stream), before)


def test_the_product_is_rounded_once_to_the_dtype_of_the_stream() -> None:
    stack = Stack().to(torch.bfloat16)
    vector = torch.tensor([0.11, 0.13, 0.17, 0.19])
    stream = torch.zeros(1, 1, WIDTH, dtype=torch.bfloat16)
    point = HookPoint(0, "resid_pre")
    twice_rounded = 3.0 * vector.to(torch.bfloat16)
    once_rounded = (3.0 * vector).to(torch.bfloat16)
    assert not torch.equal(twice_rounded, once_rounded)
    with add(layout_of(stack), [(point, vector, 3.0)]), capture(layout_of(stack), [point]) as s:
        stack(stream)
    assert s[point].dtype == torch.bfloat16
    assert torch.equal(s[point][0, 0], once_rounded)


Opener = Callable[[ModelLayout, list[HookPoint]], AbstractContextManager[Any]]
OPENERS: dict[str, Opener] = {
    "capture": capture,
    "add": lambda layout, points: add(layout, [(p, VECTOR, 1.0) for p in points]),
}
both = pytest.mark.parametrize("opener", OPENERS)


@both
@pytest.mark.parametrize("block", [-1, NUM_BLOCKS])
def test_a_point_beyond_the_blocks_is_refused_and_no_hook_is_set(opener: str, block: int) -> None:
    stack = Stack()
    points = [*ALL_POINTS, HookPoint(block, "resid_pre")]
    message = rf"blocks\.{block}\.resid_pre: the model has blocks 0\.\.2"
    with pytest.raises(UserError, match=message), OPENERS[opener](layout_of(stack), points):
        pass
    assert num_hooks(stack) == 0


@both
@pytest.mark.parametrize("method", ["register_forward_pre_hook", "register_forward_hook"])
def test_no_hook_is_left_when_setting_the_last_one_fails(
    opener: str, method: str, stream: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack()
    before = stack(stream)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("no more hooks")

    monkeypatch.setattr(stack.blocks[2], method, fail)
    with (
        pytest.raises(RuntimeError, match="no more hooks"),
        OPENERS[opener](layout_of(stack), ALL_POINTS),
    ):
        pass
    assert num_hooks(stack) == 0
    assert torch.equal(stack(stream), before)


@both
def test_no_hook_is_left_when_the_forward_fails(
    opener: str, stream: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack()
    before = stack(stream)
    with monkeypatch.context() as broken:
        broken.setattr(stack.blocks[1].linear, "forward", lambda _x: 1 / 0)
        with pytest.raises(ZeroDivisionError), OPENERS[opener](layout_of(stack), ALL_POINTS):
            stack(stream)
    assert num_hooks(stack) == 0
    assert torch.equal(stack(stream), before)


def test_hooks_of_others_stay(stream: Tensor) -> None:
    stack = Stack()
    calls: list[int] = []
    stack.blocks[0].register_forward_hook(lambda *_args: calls.append(1))
    with capture(layout_of(stack), ALL_POINTS):
        stack(stream)
    stack(stream)
    assert calls == [1, 1]


@pytest.mark.parametrize("shape", [(WIDTH + 1,), (1, WIDTH), ()])
def test_a_vector_of_another_width_is_refused_and_no_hook_is_set(shape: tuple[int, ...]) -> None:
    """A vector [1, D] would broadcast without an error, and one of width 1 too."""
    stack = Stack()
    points = [(ALL_POINTS[0], VECTOR, 1.0), (ALL_POINTS[3], torch.ones(shape), 1.0)]
    with pytest.raises(UserError) as caught, add(layout_of(stack), points):
        pass
    assert f"blocks.1.resid_post has shape {shape}, the stream ({WIDTH},)" in str(caught.value)
    assert num_hooks(stack) == 0
