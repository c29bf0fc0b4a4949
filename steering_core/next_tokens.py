"""What a chat model would say next: log-probabilities by token text, for judges that it serves as.

Shapes: R rows, S tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steering_core.hook_points import HookPoint
from steering_core.hooks import capture
from steering_core.models import LoadedModel
from steersweep.errors import UserError

Chat = Sequence[Mapping[str, str]]
"""Messages with ``role`` and ``content``."""

_NUM_TOKENS = 1000
_DIGITS = "0123456789"
_LARGEST_NUMBER = 100


@dataclass(frozen=True)
class NumberTokens:
    """How a tokenizer writes 0..100.

    Attributes:
        digits: the token of each of the ten digits.
        are_whole: whether each of 0..100 has a token of its own; where not, digits spell them.
    """

    digits: Mapping[str, int]
    are_whole: bool

    @classmethod
    def of(cls, tokenizer: Any, name: str) -> NumberTokens:
        """Those of a chat model's tokenizer.

        Raises:
            UserError: it has no chat template, or not the ten digits.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"{name} has no chat template; a judge must be a chat model")

        def token_of(text: str) -> int | None:
            token = tokenizer.convert_tokens_to_ids(text)
            return token if token is not None and token != tokenizer.unk_token_id else None

        digits = {digit: token for digit in _DIGITS if (token := token_of(digit)) is not None}
        if len(digits) < len(_DIGITS):
            raise UserError(f"{name}: the tokenizer has no tokens for digits")
        numbers = (token_of(str(number)) for number in range(_LARGEST_NUMBER + 1))
        return cls(digits, None not in numbers)


class ChatNextTokens:
    """Log-probabilities of the token behind a chat, as the model computes them without sampling.

    Holds the model, so that it can be kept by an actor. Calls do not change anything.

    Attributes:
        numbers_are_tokens: whether the tokenizer has a token for each of 0..100; where it has not,
            it spells numbers by digits.
    """

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: Any,
        num_tokens: int | None = _NUM_TOKENS,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            num_tokens: the most likely ones that a call returns; None for the whole vocabulary.
            options: more for the chat template, such as ``date_string``.

        Raises:
            UserError: a tokenizer without a chat template, or without the ten digits.
        """
        self._model, self._tokenizer, self._num_tokens = model, tokenizer, num_tokens
        self._options = dict(options or {})
        self._texts: dict[int, str] = {}
        numbers = NumberTokens.of(tokenizer, model.name)
        self._digits, self.numbers_are_tokens = numbers.digits, numbers.are_whole

    def __call__(self, chat: Chat, starts: Sequence[str] = ("",)) -> list[dict[str, float]]:
        """For each start of an answer: {text of the next token: its log-probability in nats}.

        Tokens of one text are added up.

        Args:
            starts: what the answer begins with: nothing, or digits.
        """
        prompt = self._encode(chat)
        rows = [[*prompt, *(self._digits[digit] for digit in start)] for start in starts]
        found: list[dict[str, float]] = [{} for _ in rows]
        # Rows of one length need no padding.
        for length in sorted({len(row) for row in rows}):
            at = [n for n, row in enumerate(rows) if len(row) == length]
            for n, log_probs_V in zip(at, self._log_probs([rows[n] for n in at]), strict=True):
                found[n] = self._by_text(log_probs_V)
        return found

    def _encode(self, chat: Chat) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in chat],
            tokenize=False,
            add_generation_prompt=True,
            **self._options,
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _log_probs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Float32 log-probabilities [R, V] behind the last token of each row."""
        model = self._model
        ids_RS = torch.tensor(rows, device=model.device)
        last = HookPoint(model.layout.num_blocks - 1, "resid_post")
        with torch.inference_mode(), capture(model.layout, [last]) as states:
            # The decoder alone: logits of every position would not fit for a large vocabulary.
            model.layout.decoder(input_ids=ids_RS, use_cache=False)
            logits_RV = model.layout.logits(states[last][:, -1])
            return torch.log_softmax(logits_RV, dim=-1)

    def _by_text(self, log_probs_V: Tensor) -> dict[str, float]:
        num_tokens = min(self._num_tokens or len(log_probs_V), len(log_probs_V))
        values, ids = log_probs_V.topk(num_tokens)
        found: dict[str, float] = {}
        for value, token in zip(values.double().tolist(), ids.tolist(), strict=True):
            text = self._text_of(token)
            found[text] = float(np.logaddexp(found[text], value)) if text in found else value
        return found

    def _text_of(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._tokenizer.decode([token])
        return self._texts[token]
