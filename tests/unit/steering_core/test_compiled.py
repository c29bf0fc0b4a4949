"""Compiled modules: steering inside of one would be lost without an error, so it is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steering_core.engine import Engine
from steering_core.hook_points import HookPoint
from steering_core.hooks import add
from steering_core.interventions import Intervention
from steering_core.layout import find_layout
from steering_core.protocol import PROTOCOLS
from steering_core.reference import reference_scores
from steering_core.steerer import ActivationSteerer
from steersweep.errors import UserError
from tests.support.golden import encode_group, golden_model, on_cpu
from tests.support.tiny_models import random_model

IDS = torch.tensor([[5, 9, 11, 4]])
VECTOR = torch.linspace(-1.0, 1.0, 64)
POINT = HookPoint(1, "resid_post")


def fresh() -> Any:
    torch._dynamo.reset()
    return random_model("llama", 300)


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def compile_in_place(module: nn.Module) -> None:
    module.compile(backend="eager")


def compile_forward(module: nn.Module) -> None:
    module.forward = torch.compile(module.forward, backend="eager")


def effect(model: nn.Module, block: nn.Module) -> float:
    """Largest change of a logit by a hook that is set after the first call."""
    with torch.inference_mode():
        plain = model(input_ids=IDS, use_cache=False).logits
        hook = block.register_forward_hook(lambda _module, _args, output: output + VECTOR)
        steered = model(input_ids=IDS, use_cache=False).logits
        hook.remove()
    return float((steered - plain).abs().max())


def of_the_model(model: Any) -> nn.Module:
    return model  # type: ignore[no-any-return]


def of_the_decoder(model: Any) -> nn.Module:
    return model.model  # type: ignore[no-any-return]


@pytest.mark.parametrize("compile_", [compile_in_place, compile_forward])
@pytest.mark.parametrize("part", [of_the_model, of_the_decoder])
def test_what_would_be_lost_is_refused(
    part: Callable[[Any], nn.Module], compile_: Callable[[nn.Module], None]
) -> None:
    model = fresh()
    assert effect(model, model.model.layers[1]) > 0.1
    layout, steerer = find_layout(model), ActivationSteerer(model, VECTOR, layer=1)
    compile_(part(model))
    assert effect(model, model.model.layers[1]) == 0.0, "a plain hook is not lost any more"

    with pytest.raises(UserError, match="was compiled, and compiled code skips hooks") as caught:
        ActivationSteerer(model, VECTOR, layer=1)
    assert "pass the model as it was before torch.compile" in str(caught.value)
    with pytest.raises(UserError, match="was compiled"):
        find_layout(model)
    # Compiled only after the layout was found: at the latest when a hook is set.
    with pytest.raises(UserError, match="was compiled"), steerer:
        pass
    with pytest.raises(UserError, match="was compiled"), add(layout, [(POINT, VECTOR, 1.0)]):
        pass
    assert not model.model.layers[1]._forward_hooks


def test_a_wrapper_is_refused_and_the_model_inside_it_is_not() -> None:
    model = fresh()
    wrapper = compiled(model)
    assert effect(wrapper, model.model.layers[1]) == 0.0
    with pytest.raises(UserError, match="llama: the model was compiled"):
        find_layout(wrapper, "llama")
    with pytest.raises(UserError, match="the model was compiled"):
        ActivationSteerer(wrapper, VECTOR, layer=1)
    with ActivationSteerer(model, VECTOR, layer=1), torch.inference_mode():
        steered = model(input_ids=IDS, use_cache=False).logits
    with torch.inference_mode():
        assert (steered - model(input_ids=IDS, use_cache=False).logits).abs().max() > 0.1


def test_a_compiled_block_is_refused_and_named_the_others_are_steered() -> None:
    model = fresh()
    layout = find_layout(model)
    model.model.layers[1] = compiled(model.model.layers[1])
    compile_in_place(model.model.layers[2])
    for block in (1, 2):
        with pytest.raises(UserError, match=rf"blocks\.{block}\..*: model\.layers\.{block} was"):
            layout.module_at(HookPoint(block, "resid_pre"))
        with pytest.raises(UserError, match=f"layers.{block} was"):
            ActivationSteerer(model, VECTOR, layer=block).__enter__()
    assert effect(model, layout.module_at(HookPoint(3, "resid_post"))) > 0.1


def test_parts_below_the_steered_point_may_be_compiled() -> None:
    """Norms and MLPs by themselves: the engine and the reference both steer around them."""
    torch._dynamo.reset()
    rows = encode_group("gemma2-tiny", "intersentence", "race", PROTOCOLS["as_published"])[:2]
    plain = golden_model("gemma2-tiny")
    module: Any = copy.deepcopy(plain.module)
    for block in module.model.layers:
        compile_in_place(block.mlp)
        compile_in_place(block.input_layernorm)
    model = on_cpu(module)
    assert model.layout.last_mlp is module.model.layers[-1].mlp
    vector = np.linspace(-1, 1, plain.layout.config.hidden_size, dtype=np.float32)
    point = Intervention(HookPoint(2, "resid_post"), vector, 3.0)
    protocol = PROTOCOLS["as_published"]
    wanted = Engine(plain, protocol).side_by_side(rows, 1024, [point] * 2).scores
    unsteered, _ = Engine(plain, protocol).baseline(rows, 1024)
    found = Engine(model, protocol).side_by_side(rows, 1024, [point] * 2).scores
    slow = np.stack([reference_scores(model, row, point) for row in rows])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(slow, wanted, rtol=0, atol=1e-5)
    assert np.abs(wanted - unsteered.scores).max() > 1e-3
    # What is steered itself is no such part.
    compile_in_place(module.model.layers[0].post_feedforward_layernorm)
    with pytest.raises(UserError, match=r"layers\.0\.post_feedforward_layernorm was compiled"):
        model.layout.module_at(HookPoint(0, "mlp_out"))
