"""Our capped attention against the model's own, and what it leaves behind."""

from __future__ import annotations

import pytest
import torch

from steering_core import attention
from steering_core.attention import capped_attention
from steering_core.layout import ModelLayout, find_layout
from steering_core.packing import tree_mask
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
