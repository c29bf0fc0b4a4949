"""Random-weight models with a tokenizer trained on the spot: real files, no network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from jobs.bench.rows import train_bpe

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")

_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_GPT2_SHAPE = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512}

# Windows are shorter than a question here, so that a mask without the window shows.
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "sliding_window": 16,
    },
    "gemma3_text": {
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "llama": {},
    "mistral": {"sliding_window": 16},
    "mixtral": {"num_local_experts": 4},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "olmo2": {},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.3},
    "starcoder2": {"sliding_window": 16},
    "gpt_neox": {"num_key_value_heads": None},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 32},
    "gpt2": _GPT2_SHAPE,
    "gptj": {**_GPT2_SHAPE, "rotary_dim": 8},
    # These cannot run as trees: local attention by index, ALiBi, a recurrence.
    "gpt_neo": {
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 16,
    },
    "bloom": {"n_layer": 4, "n_head": 4},
    "mamba": {},
}
NOT_PACKED = ("gpt_neo", "bloom", "mamba")


def random_model(family: str, vocab_size: int, seed: int = 0, **shape: Any) -> torch.nn.Module:
    """A float32 model of the family with weights drawn so that its logits are not flat."""
    torch.manual_seed(seed)
    options = {**_COMMON, **FAMILIES[family], **shape, "vocab_size": vocab_size}
    config = AutoConfig.for_model(family, **options)
    caps_attention = getattr(config, "attn_logit_softcapping", None) is not None
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager" if caps_attention else None, dtype=torch.float32
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    return model.eval().requires_grad_(False)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, has_bos: bool = True, has_pad: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts that puts BOS in front, where it has one."""
    tokenizer = train_bpe(texts, vocab_size, SPECIAL_TOKENS, has_bos=has_bos)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>" if has_bos else None,
        pad_token="<pad>" if has_pad else None,
        eos_token="<eos>",
    )


def save_model(
    folder: Path, family: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0, **shape: Any
) -> Path:
    """A model folder as `save_pretrained` leaves it: config, safetensors, tokenizer."""
    model = random_model(family, len(tokenizer), seed, **shape)
    model.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    return folder
