"""Finding blocks, final norm and head by structure, and refusing what is not understood."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from steering_core.hook_points import HookPoint
from steering_core.hooks import capture
from steering_core.layout import ModelLayout, find_layout, hidden_of, with_hidden
from steersweep.errors import UserError
from tests.support.tiny_models import FAMILIES, random_model

VOCAB = 300
IDS = torch.tensor([[7, 3, 11, 250, 9, 9, 42]])


def num_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_structure_is_found_and_gives_the_models_own_logits(family: str) -> None:
    model = random_model(family, VOCAB)
    layout = find_layout(model, family)
    assert layout.num_blocks == 4
    assert layout.head is model.get_output_embeddings()  # type: ignore[operator]
    assert num_hooks(model) == 0

    order: list[int] = []
    for index, block in enumerate(layout.blocks):
        block.register_forward_pre_hook(lambda *_args, index=index: order.append(index))
    last = HookPoint(3, "resid_post")
    with torch.inference_mode(), capture(layout, [last]) as states:
        logits = model(input_ids=IDS, use_cache=False).logits[0]
        ours = layout.logits(states[last][0])
    assert order == [0, 1, 2, 3]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, logits.float(), rtol=1e-5, atol=1e-5)


def test_caps_scales_and_projections_behind_the_blocks_are_kept() -> None:
    assert find_layout(random_model("gemma2", VOCAB)).logit_softcap == 3.0
    assert find_layout(random_model("granite", VOCAB)).logit_scale == 0.25
    assert find_layout(random_model("cohere", VOCAB)).logit_scale == pytest.approx(0.3)
    plain = find_layout(random_model("llama", VOCAB))
    assert (plain.logit_scale, plain.logit_softcap) == (1.0, None)
    assert [type(m).__name__ for m in plain.final] == ["LlamaRMSNorm"]
    projected = find_layout(random_model("opt", VOCAB))
    assert [type(m).__name__ for m in projected.final] == ["LayerNorm", "Linear"]


def test_no_matching_module_list_says_what_was_looked_for_and_seen() -> None:
    model = random_model("llama", VOCAB)
    model.config.num_hidden_layers = 7
    with pytest.raises(UserError) as caught:
        find_layout(model, "some/model")
    assert str(caught.value) == (
        "some/model: looked for one ModuleList with num_hidden_layers = 7 blocks, found 0; its "
        "ModuleLists: model.layers (4)"
    )


def test_two_matching_module_lists_are_refused() -> None:
    model = random_model("llama", VOCAB)
    model.extra = nn.ModuleList(nn.Identity() for _ in range(4))
    with pytest.raises(UserError, match=r"found 2; .*model\.layers \(4\), extra \(4\)"):
        find_layout(model)


def test_a_list_inside_a_block_with_as_many_entries_is_not_the_blocks() -> None:
    model = random_model("llama", VOCAB)
    for block in model.model.layers:
        block.experts = nn.ModuleList(nn.Identity() for _ in range(4))
    assert find_layout(model).blocks == tuple(model.model.layers)


class ScaledLogits(LlamaForCausalLM):
    """A head that does what no config key says."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 1.01
        return output


def test_a_head_that_does_something_else_is_an_error_at_load_time() -> None:
    plain = random_model("llama", VOCAB)
    scaled = ScaledLogits(plain.config).eval()
    scaled.load_state_dict(plain.state_dict())
    with pytest.raises(UserError, match=r"some/model: final norm.*its head computes something"):
        find_layout(scaled, "some/model")
    assert num_hooks(scaled) == 0


def test_an_unknown_step_behind_the_blocks_is_an_error_that_says_how_far_it_got() -> None:
    model = random_model("llama", VOCAB)

    def double(_module: nn.Module, _args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    model.model.register_forward_hook(double)
    with pytest.raises(UserError, match=r"got as far as \['LlamaRMSNorm'\]"):
        find_layout(model)
    assert num_hooks(model) == 1


def test_a_model_without_output_embedding_is_refused() -> None:
    model = random_model("llama", VOCAB)
    model.get_output_embeddings = lambda: None  # type: ignore[assignment]
    with pytest.raises(UserError, match="no output embedding"):
        find_layout(model)


def test_no_hook_is_left_when_the_probe_fails() -> None:
    model = random_model("llama", VOCAB)
    model.lm_head.forward = lambda _hidden: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        find_layout(model)
    assert num_hooks(model) == 0


def test_a_small_vocabulary_is_probed_inside_its_range() -> None:
    assert find_layout(random_model("llama", 3, pad_token_id=None)).num_blocks == 4


@pytest.mark.parametrize("rest", [(), (1,), (1, "two")])
def test_stream_of_a_tuple_is_its_first_entry_and_the_rest_is_kept(rest: tuple[Any, ...]) -> None:
    old, new = torch.zeros(2), torch.ones(2)
    output = (old, *rest)
    assert hidden_of(output) is old
    assert with_hidden(output, new) == (new, *rest)
    assert output[0] is old
    assert hidden_of(old) is old
    assert with_hidden(old, new) is new


@pytest.mark.parametrize("output", [None, SimpleNamespace(last_hidden_state=1), ("x",)])
def test_a_block_that_returns_no_stream_is_refused(output: Any) -> None:
    with pytest.raises(UserError, match="a block returned"):
        hidden_of(output)


def names_of(model: nn.Module, layout: ModelLayout) -> tuple[Any, ...]:
    """Names of what was found beside the blocks: the last MLP, and what each block adds."""
    names = {module: name for name, module in model.named_modules()}
    outputs = [o and (names[o.attn_out], names[o.mlp_out]) for o in layout.outputs]
    return layout.last_mlp and names[layout.last_mlp], outputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gemma2", "llama", "gpt_neox", "gptj"])
def test_half_precision_finds_what_float32_finds(family: str, dtype: torch.dtype) -> None:
    """With one large entry in the stream, as real models have: its rounding is large, too."""
    model = random_model(family, VOCAB)
    model.get_input_embeddings().weight[:, 5] = 300.0  # type: ignore[operator]
    wanted = names_of(model, find_layout(model))
    assert wanted[0] is not None
    assert all(wanted[1])
    assert names_of(model, find_layout(model.to(dtype))) == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_other_shapes_round_differently_in_half_precision(dtype: torch.dtype) -> None:
    """As on a GPU, which splits products by their shape; a CPU gives the same bits here."""
    model = random_model("llama", VOCAB).to(dtype)
    mlp = model.model.layers[-1].mlp
    own = mlp.forward

    def split_differently(hidden: Tensor) -> Tensor:
        output: Tensor = own(hidden)
        if hidden.shape[1] > 1:
            return output
        # An entry is a sum of terms of the size of the largest entries, and rounded like those.
        rounding = torch.finfo(dtype).eps * output.abs().max()
        return output + rounding * (-1) ** torch.arange(output.shape[-1])

    mlp.forward = split_differently
    assert find_layout(model).last_mlp is mlp

    mlp.forward = lambda hidden: own(hidden) + 0.3 * own(hidden).mean(dim=1, keepdim=True)
    assert find_layout(model).last_mlp is None, "positions are mixed"
