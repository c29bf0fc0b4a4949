"""Steering of a model that is called by any other code: a context manager around its forwards.

Shapes: B sequences, S positions, D width.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from steering_core.hook_points import HookPoint
from steering_core.hooks import change
from steering_core.layout import ModelLayout, find_blocks, text_config
from steersweep.errors import UserError

GenerationPositions = Literal["all", "prompt", "response"]
"""``all``: every position; ``prompt``: those of the prompt, where it has more than one token;
``response``: the prompt's last token, which predicts the answer's first, and each token behind it.
"""
GENERATION_POSITIONS: tuple[GenerationPositions, ...] = get_args(GenerationPositions)


class ActivationSteerer:
    """While open, ``coeff * steering_vector`` is added to what one block leaves.

    ::

        with ActivationSteerer(model, vector, coeff=2.0, layer=19, positions="response"):
            model.generate(...)

    Several may be open at once, at one block too: what they add adds up. The one that was opened
    last adds first, which only decides how the sum is rounded. The hook is gone when the ``with``
    block is left, whatever was raised. Tensors of the caller and the model are not changed.

    ``output_hidden_states=True`` shows the steering: ``hidden_states[layer + 1]`` is the stream
    with the step added, whether or not the model was called so before. Transformers returns the
    last one behind the final norm.

    Args:
        model: a Hugging Face decoder model.
        steering_vector: [D]; a copy is kept.
        coeff: its multiplier; the product is rounded once, to the dtype of the stream.
        layer: the **0-based block** whose output is steered, as in the persona-vectors code. Specs
            and results of this project number layers from 1: this is their ``layer - 1``.
        positions: of each forward, ``all``: every position, pads too; ``prompt``: every position
            while more than one token is processed, nothing while one is; ``response``: the last
            position, so pad prompts on the left.

    Call the model itself, not what ``torch.compile`` made of it: compiled code skips hooks that
    are set later.

    Raises:
        UserError: no such block or positions, or a vector that is not [D] or not finite; or the
            model or the block was compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        steering_vector: Tensor,
        coeff: float = 1.0,
        layer: int = 19,
        positions: GenerationPositions = "all",
    ) -> None:
        name = type(model).__name__
        if positions not in GENERATION_POSITIONS:
            raise UserError(
                f"positions must be one of {', '.join(GENERATION_POSITIONS)}, got {positions!r}"
            )
        config = text_config(model.config)
        decoder, blocks = find_blocks(model, config, name)
        if not 0 <= layer < len(blocks):
            raise UserError(
                f"layer must be in 0..{len(blocks) - 1} (a 0-based block) for {name}, got {layer}"
            )
        vector = torch.as_tensor(steering_vector).detach().clone()
        if tuple(vector.shape) != (config.hidden_size,):
            raise UserError(
                f"the steering vector has shape {tuple(vector.shape)}, the stream of {name} "
                f"({config.hidden_size},)"
            )
        if not bool(torch.isfinite(vector).all()):
            raise UserError("the steering vector has entries that are not finite")
        self.coeff = coeff
        self.layer = layer
        self.positions = positions
        self.vector = vector
        self._layout = ModelLayout(decoder, blocks, (), nn.Identity(), config=config, model=model)
        self._open: list[ExitStack] = []

    def __enter__(self) -> ActivationSteerer:
        with ExitStack() as stack:
            point = HookPoint(self.layer, "resid_post")
            stack.enter_context(change(self._layout, [(point, self._steer)]))
            self._open.append(stack.pop_all())
        return self

    def __exit__(self, *_raised: Any) -> None:
        self._open.pop().close()

    def _steer(self, resid_BSD: Tensor) -> Tensor | None:
        num_positions = resid_BSD.shape[1]
        if self.positions == "prompt" and num_positions == 1:
            return None
        step = (self.coeff * self.vector).to(resid_BSD)
        if self.positions != "response":
            return resid_BSD + step
        return torch.cat([resid_BSD[:, :-1], resid_BSD[:, -1:] + step], dim=1)
