"""Where a decoder model keeps its blocks, final norm and head, found by structure and checked.

Nothing here knows a model family by name. The blocks are the one ``ModuleList`` with as many
entries as the config has layers. The modules behind them are found by running a few tokens through
the model and following the last block's output. The result is then compared with the model's own
logits, so that a head that scales or caps in a way that is not known here is an error at load time
and not a wrong number.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from steering_core.block_outputs import BlockOutputs, found_block_outputs
from steering_core.compiled import refuse_compiled
from steering_core.hook_points import HookPoint
from steersweep.errors import UserError

_PROBE_IDS = (1, 3, 2, 5, 4)


@dataclass(frozen=True)
class ModelLayout:
    """The parts of a decoder that steering and scoring touch.

    Attributes:
        decoder: the module that embeds tokens and runs the blocks.
        blocks: its N residual blocks, in order.
        final: modules applied in turn to the last block's output (final norm, projections).
        head: the output embedding, hidden states to logits.
        last_mlp: the position-wise module that holds most of the last block's work, or None where
            none was found: it is then computed at every position.
        outputs: of each block, the modules that add to the stream, None where they were not found.
        blocks_return_tuples: whether blocks return more than their output stream.
        logit_scale: factor on the logits; 1.0 for most models.
        logit_softcap: c of ``c * tanh(logits / c)`` on the scaled logits, or None.
        model: the whole model, with the head.
    """

    decoder: nn.Module
    blocks: tuple[nn.Module, ...]
    final: tuple[nn.Module, ...]
    head: nn.Module
    last_mlp: nn.Module | None = None
    outputs: tuple[BlockOutputs | None, ...] = ()
    blocks_return_tuples: bool = False
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    config: Any = field(default=None, repr=False)
    model: nn.Module | None = field(default=None, repr=False)

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    def module_at(self, point: HookPoint) -> nn.Module:
        """The module that reads the stream at a hook point, or whose output is what is there.

        Raises:
            UserError: the model has no such block, or its block no such output; or the module is
                part of compiled code, which skips hooks.
        """
        module = self._module_at(point)
        path = self._paths.get(id(module))
        if path is not None and self.model is not None:
            refuse_compiled(self.model, path, str(point))
        return module

    @cached_property
    def _paths(self) -> dict[int, str]:
        """Names of the model's modules by identity: searching for one takes longer than a hook."""
        model = self.decoder if self.model is None else self.model
        return {id(module): path for path, module in model.named_modules()}

    def _module_at(self, point: HookPoint) -> nn.Module:
        if not 0 <= point.block < self.num_blocks:
            raise UserError(f"{point}: the model has blocks 0..{self.num_blocks - 1}")
        if point.site in ("resid_pre", "resid_post"):
            return self.blocks[point.block]
        outputs = self.outputs[point.block] if self.outputs else None
        if outputs is None:
            raise UserError(
                f"{point}: no two modules of the model's block {point.block} add up to what it "
                "adds to the residual stream; choose resid_pre or resid_post"
            )
        return outputs.attn_out if point.site == "attn_out" else outputs.mlp_out

    def logits(self, resid_MD: Tensor) -> Tensor:
        """Float32 logits [M, V] of streams [M, D] as the last block leaves them."""
        return self.scaled_and_capped(self.head(self.final_hidden(resid_MD)))

    def final_hidden(self, resid_MD: Tensor) -> Tensor:
        """What the head reads [M, D] of streams [M, D] as the last block leaves them."""
        hidden_MD = resid_MD
        for module in self.final:
            hidden_MD = module(hidden_MD)
        return hidden_MD

    def scaled_and_capped(self, products: Tensor) -> Tensor:
        """Float32 logits of the head's products, which may be changed in place."""
        logits = products.float()
        if self.logit_scale != 1.0:
            logits *= self.logit_scale
        if self.logit_softcap is not None:
            logits = logits.div_(self.logit_softcap).tanh_().mul_(self.logit_softcap)
        return logits


def hidden_of(output: Any) -> Tensor:
    """The residual stream in what a block returns: a tensor, or the first entry of a tuple."""
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor):
        raise UserError(f"a block returned {type(hidden).__name__} instead of its output stream")
    return hidden


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """What a block returned, with its residual stream replaced; the original is not changed."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def find_layout(model: nn.Module, name: str = "model") -> ModelLayout:
    """The layout of a Hugging Face decoder model for causal language modelling.

    Runs the model twice on five tokens, on the device where it lies; changes nothing.

    Raises:
        UserError: a part was not found, or the parts do not reproduce the model's own logits; the
            message says what was looked for.
    """
    config = text_config(model.config)
    decoder, blocks = find_blocks(model, config, name)
    head = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Module):
        raise UserError(f"{name}: no output embedding (get_output_embeddings() gave {head!r})")
    traced = _trace(model, decoder, blocks, name)
    layout = ModelLayout(
        decoder=decoder,
        blocks=blocks,
        final=traced.final,
        head=head,
        last_mlp=traced.last_mlp,
        outputs=traced.outputs,
        model=model,
        blocks_return_tuples=traced.returns_tuple,
        logit_scale=_logit_scale(config),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        config=config,
    )
    _check_logits(layout, traced.last_resid, traced.logits, name)
    return layout


@dataclass(frozen=True)
class _Traced:
    """What a forward of a few tokens showed: stream [1, S, D] and logits [1, S, V] at its end."""

    last_resid: Tensor
    logits: Tensor
    final: tuple[nn.Module, ...]
    last_mlp: nn.Module | None
    outputs: tuple[BlockOutputs | None, ...]
    returns_tuple: bool


def text_config(config: Any) -> Any:
    """The language model's part of a config (multimodal configs nest it)."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def find_blocks(
    model: nn.Module, config: Any, name: str
) -> tuple[nn.Module, tuple[nn.Module, ...]]:
    """The decoder and its residual blocks, of a model whose weights may be on the meta device.

    Raises:
        UserError: not one list of as many blocks as the config says; or the model was compiled.
    """
    num_layers = getattr(config, "num_hidden_layers", None)
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0
    }
    matching = [path for path, module in lists.items() if len(module) == num_layers]
    # An expert list inside a block can have as many entries as there are blocks: keep outer ones.
    outer = [p for p in matching if not any(p.startswith(f"{q}.") for q in matching)]
    if len(outer) != 1:
        seen = ", ".join(f"{path} ({len(module)})" for path, module in lists.items()) or "none"
        raise UserError(
            f"{name}: looked for one ModuleList with num_hidden_layers = {num_layers} blocks, "
            f"found {len(outer)}; its ModuleLists: {seen}"
        )
    refuse_compiled(model, outer[0], name)
    parent = outer[0].rpartition(".")[0]
    return model.get_submodule(parent), tuple(lists[outer[0]])


def _trace(
    model: nn.Module, decoder: nn.Module, blocks: tuple[nn.Module, ...], name: str
) -> _Traced:
    """Follow the last block's output to the decoder's, and look at the parts of the last block."""
    followed: list[Tensor] = []
    chain: list[nn.Module] = []
    shapes: list[bool] = []
    parts: list[tuple[nn.Module, Tensor, Tensor]] = []

    def after_last_block(_module: nn.Module, _args: Any, output: Any) -> None:
        followed[:] = [hidden_of(output)]
        shapes[:] = [isinstance(output, tuple)]
        chain.clear()

    def after_part(module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        if len(args) == 1 and not kwargs and isinstance(output, Tensor):
            parts.append((module, args[0], output))

    def after_any(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if followed and args and _same(args[0], followed[-1]) and isinstance(output, Tensor):
            followed.append(output)
            chain.append(module)

    inside = {id(m) for block in blocks for m in block.modules()}
    candidates = [
        m
        for m in decoder.modules()
        if m is not decoder and id(m) not in inside and not isinstance(m, nn.ModuleList)
    ]
    ends: list[Tensor] = []
    with ExitStack() as stack:
        stack.callback(blocks[-1].register_forward_hook(after_last_block).remove)
        for module in candidates:
            stack.callback(module.register_forward_hook(after_any).remove)
        for part in blocks[-1].children():
            stack.callback(part.register_forward_hook(after_part, with_kwargs=True).remove)
        stack.callback(
            decoder.register_forward_hook(
                lambda _m, _a, output: ends.append(last_hidden_state(output))
            ).remove
        )
        device = next(model.parameters()).device
        ids = torch.tensor([_PROBE_IDS], device=device) % int(text_config(model.config).vocab_size)
        with torch.inference_mode(), found_block_outputs(blocks) as outputs:
            logits = model(input_ids=ids, use_cache=False).logits
    if not followed or not ends or not _same(ends[-1], followed[-1]):
        raise UserError(
            f"{name}: looked for a chain of modules from the last block's output to the decoder's "
            f"last_hidden_state, got as far as {[type(m).__name__ for m in chain]}"
        )
    last_mlp, last_outputs = _position_wise(parts, blocks[-1]), outputs[-1]
    if last_mlp and last_outputs and last_outputs.mlp_out in list(last_mlp.modules())[1:]:
        last_mlp = None  # what is steered inside of it must be there at every position
    return _Traced(
        last_resid=followed[0],
        logits=logits,
        final=tuple(chain),
        last_mlp=last_mlp,
        outputs=tuple(outputs),
        returns_tuple=shapes[0],
    )


def _position_wise(
    parts: list[tuple[nn.Module, Tensor, Tensor]], block: nn.Module
) -> nn.Module | None:
    """The part of a block with a third of its weights or more that computes each position alone."""
    total = sum(p.numel() for p in block.parameters())
    for module, hidden, output in parts:
        if output.shape != hidden.shape or 3 * sum(p.numel() for p in module.parameters()) < total:
            continue
        with torch.inference_mode():
            alone = module(hidden[:, 2:3])
        if _is_same_position(alone, output[:, 2:3]):
            return module
    return None


def _is_same_position(alone: Tensor, wanted: Tensor) -> bool:
    """Whether a position's output [1, 1, D] is the same up to rounding.

    As a whole, not entry by entry: products of one row and of five are split in different ways, so
    that in half precision an entry near 0 may be off by many times its size.
    """
    if alone.shape != wanted.shape:
        return False
    limit = max(1e-3, 8 * torch.finfo(wanted.dtype).eps)
    gap = torch.linalg.vector_norm(alone.float() - wanted.float())
    return bool(gap <= limit * torch.linalg.vector_norm(wanted.float()))


def _same(a: Any, b: Tensor) -> bool:
    """Whether two tensors are one memory; some decoders hand on a view of their own output."""
    return isinstance(a, Tensor) and a.data_ptr() == b.data_ptr() and a.numel() == b.numel()


def last_hidden_state(output: Any) -> Tensor:
    """What a decoder leaves for the head, behind the final norm."""
    hidden = getattr(output, "last_hidden_state", None)
    return hidden if isinstance(hidden, Tensor) else hidden_of(output)


def _logit_scale(config: Any) -> float:
    """Cohere multiplies logits by ``logit_scale``; Granite divides by ``logits_scaling``."""
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    return scale / float(getattr(config, "logits_scaling", None) or 1.0)


def _check_logits(layout: ModelLayout, resid_1SD: Tensor, logits_1SV: Tensor, name: str) -> None:
    with torch.inference_mode():
        ours = layout.logits(resid_1SD[0])
    theirs = logits_1SV[0].float().to(ours.device)
    # Half precision may round the same product differently in another shape.
    tolerance = 1e-3 if logits_1SV.dtype == torch.float32 else 0.05
    scale = 1.0 + theirs.abs().max()
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > tolerance * scale:
        gap = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else "shape"
        raise UserError(
            f"{name}: final norm, head, logit_scale and final_logit_softcapping do not "
            f"reproduce the model's logits (largest difference {gap}); its head computes something "
            "else"
        )
