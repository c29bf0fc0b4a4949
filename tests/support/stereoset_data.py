"""The real StereoSet development set, where this machine has it, and models for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steering_core.stereoset import read_stereoset
from tests.support.tiny_models import save_model, train_tokenizer

DEV_JSON = Path(__file__).parents[3] / "shared" / "data" / "stereoset" / "dev.json"

needs_dev_json = pytest.mark.skipif(
    not DEV_JSON.is_file(), reason="StereoSet's dev.json is not beside the checkout in shared/"
)


def save_gemma2_pair(folder: Path, vocab_size: int = 2048, **shape: Any) -> dict[str, Path]:
    """Two random Gemma-2 models of 6 blocks, `base` and `instruct`, that share a tokenizer."""
    examples = read_stereoset(DEV_JSON).examples
    texts = [text for e in examples for text in (e.context, *e.sentences)]
    tokenizer = train_tokenizer(texts, vocab_size)
    options = {
        "num_hidden_layers": 6,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return {
        name: save_model(folder / name, "gemma2", tokenizer, seed, **(options | shape))
        for seed, name in enumerate(("base", "instruct"))
    }


if __name__ == "__main__":
    # python -m tests.support.stereoset_data FOLDER: the pair whose time docs/performance.md quotes.
    import sys

    save_gemma2_pair(
        Path(sys.argv[1]),
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
    )
