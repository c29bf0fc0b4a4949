"""A judge behind the OpenAI API, or any server that speaks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openai

from jobs.persona.judges.api_judge import ApiJudge
from jobs.persona.judges.base import Verdict
from jobs.persona.judges.reading import by_log_probs, by_text, number_masses
from jobs.persona.judges.spec import OpenAIJudgeSpec
from steersweep.errors import UserError

_NUM_LIKELIEST = 20
"""Tokens with log-probabilities: the most that the API gives."""
_SEED = 0


class OpenAIJudge(ApiJudge):
    """Reads the first token's log-probabilities, as the published judge does, or the text."""

    client_type = openai.AsyncOpenAI
    api_error = openai.APIError
    official_url = "https://api.openai.com/v1"
    url_variable = "OPENAI_BASE_URL"

    def __init__(self, spec: OpenAIJudgeSpec) -> None:
        super().__init__(spec)
        self._spec = spec

    def identity(self) -> Mapping[str, object]:
        """Model, address and settings of the request."""
        return {
            "kind": "openai",
            "model": self._spec.model,
            "base_url": self._endpoint.base_url,
            "temperature": self._spec.temperature,
            "read": self._spec.read,
            "request": self._options(),
        }

    def _check_reply(self, reply: Any) -> None:
        """Also sees log-probabilities, and how numbers are spelled."""
        if self._spec.read == "text":
            super()._check_reply(reply)
            return
        who, advice = f"judge {self.name}: {self._endpoint.host}", "set `read: text`"
        likeliest = _likeliest(reply)
        if not likeliest:
            raise UserError(f"{who} gives no log-probabilities; {advice}")
        if max(likeliest, key=lambda text: likeliest[text]).strip() == "8":
            raise UserError(
                f"{who} writes 85 digit by digit, so its first token is not a score; {advice}"
            )

    def _read(self, reply: Any) -> Verdict:
        tokens = _usage(reply)
        try:
            choice = reply.choices[0]
            message = choice.message
            if message.refusal or choice.finish_reason == "content_filter":
                return Verdict("refused", None, "by the judge", *tokens)
            if self._spec.read == "text":
                found = by_text(message.content)
            else:
                log_probs = _likeliest(reply)
                found = by_log_probs(log_probs, number_masses(log_probs.items()))
        except (AttributeError, IndexError, TypeError):
            return Verdict("unparsable", None, "a reply without the expected fields", *tokens)
        return Verdict(found.outcome, found.score, found.said, *tokens)

    def _options(self) -> dict[str, Any]:
        if self._spec.read == "text":
            return {"max_tokens": self._spec.max_tokens, "seed": _SEED}
        return {"max_tokens": 1, "logprobs": True, "top_logprobs": _NUM_LIKELIEST, "seed": _SEED}

    async def _send(self, client: Any, prompt: str) -> Any:
        options = self._options()
        if self._spec.temperature is not None:
            options["temperature"] = self._spec.temperature
        return await client.chat.completions.create(
            model=self._spec.model, messages=[{"role": "user", "content": prompt}], **options
        )


def _likeliest(reply: Any) -> dict[str, float]:
    """Log-probabilities of the first token, by its text; empty where the reply has none."""
    try:
        tokens = reply.choices[0].logprobs.content[0].top_logprobs
        return {str(token.token): float(token.logprob) for token in tokens}
    except (AttributeError, IndexError, TypeError, ValueError):
        return {}


def _usage(reply: Any) -> tuple[int, int]:
    usage = getattr(reply, "usage", None)
    return (
        int(getattr(usage, "prompt_tokens", 0) or 0),
        int(getattr(usage, "completion_tokens", 0) or 0),
    )
