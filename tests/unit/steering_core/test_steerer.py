"""The context manager: what it adds where, what it leaves, and what it refuses."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steering_core.hook_points import HookPoint
from steering_core.hooks import capture
from steering_core.steerer import ActivationSteerer
from steersweep.errors import UserError
from tests.support.generation import FAMILIES, NUM_BLOCKS, WIDTH, model_of, vector_of

IDS = torch.tensor([[5, 9, 11, 4], [7, 8, 3, 200]])
VECTOR = torch.from_numpy(vector_of(0))


def left_by(family: str, block: int, ids: Tensor = IDS) -> Tensor:
    """What a block leaves [B, S, D]."""
    model, point = model_of(family), HookPoint(block, "resid_post")
    with torch.inference_mode(), capture(model.layout, [point]) as states:
        model.module(input_ids=ids, use_cache=False)
    return states[point]


def num_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("block", [0, NUM_BLOCKS - 1])
def test_the_output_of_the_0_based_block_is_steered(family: str, block: int) -> None:
    model = model_of(family).module
    plain, below = left_by(family, block), left_by(family, max(block - 1, 0))
    with ActivationSteerer(model, VECTOR, coeff=-2.0, layer=block):
        steered = left_by(family, block)
        if block:
            assert torch.equal(left_by(family, block - 1), below)
    torch.testing.assert_close(steered, plain - 2 * VECTOR)
    assert torch.equal(left_by(family, block), plain)
    assert num_hooks(model) == 0


@pytest.mark.parametrize(
    ("positions", "long", "single"),
    [("all", [1, 1, 1, 1], [1]), ("prompt", [1, 1, 1, 1], [0]), ("response", [0, 0, 0, 1], [1])],
)
def test_positions(positions: Any, long: list[int], single: list[int]) -> None:
    model = model_of("llama").module
    for ids, where in ((IDS, long), (IDS[:, :1], single)):
        plain = left_by("llama", 2, ids)
        with ActivationSteerer(model, VECTOR, 3.0, 2, positions):
            steered = left_by("llama", 2, ids)
        wanted = plain + 3 * VECTOR * torch.tensor(where)[None, :, None]
        torch.testing.assert_close(steered, wanted)
        untouched = torch.tensor(where) == 0
        assert torch.equal(steered[:, untouched], plain[:, untouched])


def test_steerers_nest_and_the_inner_one_leaves_first() -> None:
    model, other = model_of("qwen2").module, torch.from_numpy(vector_of(1))
    plain = left_by("qwen2", 1)
    with ActivationSteerer(model, VECTOR, 1.0, 1):
        with ActivationSteerer(model, other, 2.0, 1, "response"):
            both = left_by("qwen2", 1)
        one = left_by("qwen2", 1)
    wanted = plain + VECTOR
    torch.testing.assert_close(one, wanted)
    wanted[:, -1] += 2 * other
    torch.testing.assert_close(both, wanted)
    assert torch.equal(left_by("qwen2", 1), plain)


def test_one_steerer_can_be_opened_again_and_within_itself() -> None:
    model = model_of("llama").module
    plain = left_by("llama", 0)
    steerer = ActivationSteerer(model, VECTOR, 1.0, 0)
    for _ in range(2):
        with steerer:
            torch.testing.assert_close(left_by("llama", 0), plain + VECTOR)
            with steerer:
                torch.testing.assert_close(left_by("llama", 0), plain + 2 * VECTOR)
            torch.testing.assert_close(left_by("llama", 0), plain + VECTOR)
    assert num_hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_no_hook_is_left_whatever_is_raised(error: type[BaseException]) -> None:
    model = model_of("llama").module
    with pytest.raises(error), ActivationSteerer(model, VECTOR, 1.0, 0):
        assert num_hooks(model) == 1
        raise error
    assert num_hooks(model) == 0


def test_callers_tensors_are_not_changed_and_later_changes_do_not_steer() -> None:
    model, vector = model_of("llama").module, VECTOR.clone()
    plain = left_by("llama", 1)
    steerer = ActivationSteerer(model, vector, 2.0, 1)
    with steerer:
        left_by("llama", 1)
    assert torch.equal(vector, VECTOR)
    vector += 1
    with steerer:
        torch.testing.assert_close(left_by("llama", 1), plain + 2 * VECTOR)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("called_before", [True, False])
def test_hidden_states_of_transformers_show_the_steering(family: str, called_before: bool) -> None:
    """Transformers sets its recording hooks at the first such call, and leaves them there."""
    model, block = deepcopy(model_of(family).module), NUM_BLOCKS - 2
    plain = deepcopy(model)(input_ids=IDS, output_hidden_states=True).hidden_states
    if called_before:
        model(input_ids=IDS, output_hidden_states=True)
    with ActivationSteerer(model, VECTOR, 2.0, block, "response"):
        steered = model(input_ids=IDS, output_hidden_states=True).hidden_states
    added = torch.zeros_like(plain[0])
    added[:, -1] = 2 * VECTOR
    for layer in range(block + 1):
        assert torch.equal(steered[layer], plain[layer])
    torch.testing.assert_close(steered[block + 1], plain[block + 1] + added)
    assert not torch.allclose(steered[-1][:, -1], plain[-1][:, -1])
    after = model(input_ids=IDS, output_hidden_states=True).hidden_states
    assert all(torch.equal(one, other) for one, other in zip(after, plain, strict=True))


def test_of_two_steerers_at_one_block_the_one_opened_last_adds_first() -> None:
    """It shows only in how the sum is rounded: 2**24 + 1 is 2**24 in float32."""
    model = deepcopy(model_of("llama").module)
    large, one = torch.full((WIDTH,), 2.0**24), torch.ones(WIDTH)
    model(input_ids=IDS, output_hidden_states=True)

    def left(first: Tensor, then: Tensor) -> Tensor:
        with ActivationSteerer(model, first, 1.0, 0), ActivationSteerer(model, then, 1.0, 0):
            states: Tensor = model(input_ids=IDS, output_hidden_states=True).hidden_states[1]
        return states

    plain = model(input_ids=IDS, output_hidden_states=True).hidden_states[1]
    assert torch.equal(left(large, -large), (plain - large) + large)
    assert torch.equal(left(large, one), (plain + one) + large)
    assert not torch.equal((plain + one) + large, (plain + large) + one)


class _Tupled(nn.Module):
    """A block that returns more than its stream, in place of one that does not."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, stream: Tensor) -> tuple[Tensor, str]:
        self.seen.append(stream)
        return stream, "beside"


def test_a_tuple_keeps_what_stands_beside_the_stream_and_nothing_is_edited_in_place() -> None:
    seen: list[Tensor] = []

    class Config:
        num_hidden_layers, hidden_size = 2, WIDTH

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([_Tupled(seen), _Tupled(seen)])
            self.config = Config()

        def forward(self, stream: Tensor) -> Tensor:
            for block in self.blocks:
                stream, beside = block(stream)
                assert beside == "beside"
            return stream

    stream = torch.zeros(1, 3, WIDTH)
    with ActivationSteerer(Model(), VECTOR, 1.0, 0, "response"):  # type: ignore[arg-type]
        left = Model.forward(model := Model(), stream)
    assert torch.equal(left, stream), "another model of the class is not steered"
    with ActivationSteerer(model, VECTOR, 1.0, 0, "response"):
        left = model(stream)
    assert torch.equal(left[0, 2], VECTOR)
    assert not stream.any()
    assert not left[0, :2].any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layer": NUM_BLOCKS}, r"layer must be in 0\.\.3 \(a 0-based block\)"),
        ({"layer": -1}, "got -1"),
        ({"positions": "last"}, "positions must be one of all, prompt, response"),
        ({"steering_vector": torch.ones(WIDTH + 1)}, r"has shape \(65,\)"),
        ({"steering_vector": torch.ones(1, WIDTH)}, r"has shape \(1, 64\)"),
        ({"steering_vector": VECTOR * np.inf}, "not finite"),
    ],
)
def test_what_cannot_steer_is_refused(changed: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"steering_vector": VECTOR, "layer": 1}
    with pytest.raises(UserError, match=message):
        ActivationSteerer(model_of("llama").module, **(options | changed))


def test_the_default_block_is_refused_where_the_model_has_fewer() -> None:
    with pytest.raises(UserError, match=r"layer must be in 0\.\.3.* got 19"):
        ActivationSteerer(model_of("llama").module, VECTOR)
