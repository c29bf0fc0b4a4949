"""Our capped attention against the model's own, and what it leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from steering_core import attention, generation
from steering_core.attention import attend_packed, capped_attention, step_attention
from steering_core.generation import GenerationRow, generate
from steering_core.layout import ModelLayout, find_layout
from steering_core.packing import tree_mask
from steering_core.sampling import Sampling
from steering_core.slot_cache import slot_mask, whole_columns
from tests.support.generation import VOCAB, prompt_of
from tests.support.golden import on_cpu
from tests.support.tiny_models import random_model

ROWS, POSITIONS = 3, 11


@pytest.fixture(scope="module")
def layout() -> ModelLayout:
    """Caps low enough to bend the scores, and two query heads for each key head."""
    return find_layout(random_model("gemma2", 300, attn_logit_softcapping=0.5))


def _streams(layout: ModelLayout) -> torch.Tensor:
    seeds = torch.Generator().manual_seed(0)
    ids = torch.randint(300, (ROWS, POSITIONS), generator=seeds)
    position = torch.arange(POSITIONS).expand(ROWS, -1)
    branch = (position > 4).long() + (position > 7).long()
    mask = tree_mask(branch, position, torch.float32)
    with torch.inference_mode():
        output = layout.decoder(
            input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False
        )
    return output.last_hidden_state


@pytest.mark.parametrize("at_once", [1, 2 * 4 * POSITIONS**2, 2**20])
def test_it_is_the_models_own_attention(
    layout: ModelLayout, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _streams(layout)
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", {"cpu": at_once})
    with capped_attention(layout):
        found = _streams(layout)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


def test_the_cap_and_the_mask_are_honoured(layout: ModelLayout) -> None:
    """The check above can fail: other caps and masks give other streams."""
    wanted = _streams(layout)
    other = find_layout(random_model("gemma2", 300, attn_logit_softcapping=50.0))
    with capped_attention(other):
        assert (_streams(other) - wanted).abs().max() > 1e-3


def test_the_models_own_attention_is_back_after_an_error(layout: ModelLayout) -> None:
    before = layout.config._attn_implementation
    with pytest.raises(RuntimeError, match="planted"), capped_attention(layout):
        assert layout.config._attn_implementation != before
        raise RuntimeError("planted")
    assert layout.config._attn_implementation == before


def test_a_model_without_a_cap_keeps_its_attention() -> None:
    layout = find_layout(random_model("llama", 300))
    before = layout.config._attn_implementation
    with capped_attention(layout):
        assert layout.config._attn_implementation == before


# -- one position a sequence ---------------------------------------------------------------------

CUDA = torch.device("cuda:0")
"""Only named here: its way is taken on CPU tensors."""


@pytest.mark.parametrize("num_kv", [1, 2, 4, 8])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_packed_query_heads_attend_as_copied_keys_do(
    num_kv: int, window: int | None, dtype: torch.dtype, atol: float
) -> None:
    numbers = torch.Generator().manual_seed(num_kv)
    num_rows, num_heads, width, columns = 5, 8, 16, 40

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=numbers).to(dtype)

    query = drawn(num_rows, num_heads, 1, width)
    key, value = (drawn(num_rows, num_kv, 64, width)[:, :, : whole_columns(columns)] for _ in "kv")
    mask = slot_mask(torch.tensor([0, 3, 17, 31, 39]), columns, dtype, window)
    found, weights = attend_packed(nn.Module(), query, key, value, mask, scaling=0.3)
    copied = (kept.repeat_interleave(num_heads // num_kv, dim=1).float() for kept in (key, value))
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query.float(), *copied, attn_mask=mask.float(), scale=0.3
    )
    assert weights is None
    assert found.shape == (num_rows, 1, num_heads, width)
    torch.testing.assert_close(found.float(), wanted.transpose(1, 2), rtol=0, atol=atol)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma3_text"])
def test_answers_of_packed_query_heads_are_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With windows too; the key heads are read as they are."""
    shape = {"sliding_window": 8} if family in ("mistral", "gemma3_text") else {}
    module = random_model(
        family, VOCAB, seed=5, num_attention_heads=4, num_key_value_heads=2, **shape
    )
    model = on_cpu(module, family)
    rows = [GenerationRow(prompt_of(n, 3 + 4 * n), seed=n) for n in range(5)]
    sampling = Sampling(7, (), temperature=0.7, top_p=0.9)
    wanted = generate(model, rows, sampling, rows_at_once=3)
    num_kv, packed = 2, []

    def as_on_cuda(layout: ModelLayout, _device: torch.device) -> Any:
        return step_attention(layout, CUDA)

    def noted(query: torch.Tensor, key: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if query.shape[1] == num_kv:
            packed.append((query.shape[2], key.shape[1]))
        return attend(query, key, *args, **options)

    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(generation, "step_attention", as_on_cuda)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    assert generate(model, rows, sampling, rows_at_once=3) == wanted
    assert len(packed) >= 4 * 7  # each block and step
    assert set(packed) == {(2, num_kv)}


def test_what_is_packed_and_what_stays_as_it_is(layout: ModelLayout) -> None:
    llama = find_layout(random_model("llama", 300))
    assert llama.config._attn_implementation == "sdpa"
    with step_attention(llama, torch.device("cpu")):
        assert llama.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError, match="planted"), step_attention(llama, CUDA):
        assert llama.config._attn_implementation == "steersweep_packed"
        raise RuntimeError("planted")
    assert llama.config._attn_implementation == "sdpa"
    llama.config._attn_implementation = "eager"
    with step_attention(llama, CUDA):
        assert llama.config._attn_implementation == "eager"
    for device in (CUDA, torch.device("cpu")):
        with step_attention(layout, device):
            assert layout.config._attn_implementation == "steersweep_capped"


def test_several_positions_and_masks_by_head_go_to_sdpa() -> None:
    llama = random_model("llama", 300, num_attention_heads=4, num_key_value_heads=2)
    module = llama.model.layers[0].self_attn
    numbers = torch.Generator().manual_seed(0)
    key, value = (torch.randn(2, 2, 9, 16, generator=numbers) for _ in "kv")
    for num_queries, mask_heads in ((9, 1), (1, 4)):
        query = torch.randn(2, 4, num_queries, 16, generator=numbers)
        mask = torch.randn(2, mask_heads, num_queries, 9, generator=numbers)
        found, _ = attend_packed(module, query, key, value, mask, scaling=0.25)
        wanted, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.25)
        assert torch.equal(found, wanted)
