"""A model's shapes without its weights: built on the meta device, where nothing is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steering_core.flops import Costs, costs_of_parts
from steering_core.layout import find_blocks, text_config
from steering_core.models import ModelSource, load_config
from steersweep.errors import UserError


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What planning needs to know of a model.

    Attributes:
        costs: operations of its parts; of the modules behind the blocks only the head is known.
        num_params: entries of all its weights, tied ones once.
        width: of the stream, d_model.
        widest: the longest side of a block's matrices.
        num_heads, num_kv_heads, head_width: of attention; 0 where the config names no heads.
        vocab_size: columns of the head.
        caps_attention: whether attention logits are soft-capped.
    """

    costs: Costs
    num_params: int
    width: int
    widest: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    vocab_size: int
    caps_attention: bool

    @property
    def num_blocks(self) -> int:
        return self.costs.num_blocks


def read_skeleton(source: ModelSource) -> Skeleton:
    """The shapes of a model, from its config alone.

    Raises:
        UserError: no config, or one that no decoder can be built of without its weights.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(source)
    try:
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(
                config, trust_remote_code=source.trust_remote_code
            )
    except Exception as error:  # a model's own code may raise anything
        raise UserError(
            f"{source.path}: its shapes cannot be derived from its config ({error}); only a run "
            "can load it"
        ) from error
    text = text_config(config)
    _, blocks = find_blocks(module, text, source.path)
    head = module.get_output_embeddings()
    num_heads = int(getattr(text, "num_attention_heads", None) or 0)
    matrices = [p for p in blocks[0].parameters() if p.dim() >= 2]
    return Skeleton(
        costs=costs_of_parts(blocks, () if head is None else (head,), text),
        num_params=sum(p.numel() for p in module.parameters()),
        width=int(text.hidden_size),
        widest=max((max(p.shape) for p in matrices), default=0),
        num_heads=num_heads,
        num_kv_heads=int(getattr(text, "num_key_value_heads", None) or num_heads),
        head_width=int(getattr(text, "head_dim", None) or text.hidden_size // max(1, num_heads)),
        vocab_size=int(text.vocab_size),
        caps_attention=getattr(text, "attn_logit_softcapping", None) is not None,
    )
