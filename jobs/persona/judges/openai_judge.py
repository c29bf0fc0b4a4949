"""A judge behind the OpenAI API, or any server that speaks it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Self

import openai

from jobs.persona.judges.base import Judge, Query, Verdict
from jobs.persona.judges.endpoint import (
    CHECK_RETRIES,
    CHECK_TIMEOUT_S,
    PROBE,
    Endpoint,
)
from jobs.persona.judges.reading import by_log_probs, by_text, number_masses
from jobs.persona.judges.spec import OpenAIJudgeSpec
from steering_core.errors import InputError

OFFICIAL_URL = "https://api.openai.com/v1"
_NUM_LIKELIEST = 20
"""Tokens with log-probabilities: the most that the API gives."""
_SEED = 0


class OpenAIJudge(Judge):
    """Reads the first token's log-probabilities, as the published judge does, or the text."""

    def __init__(self, spec: OpenAIJudgeSpec) -> None:
        self._spec = spec
        base_url = spec.base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL_URL
        self._endpoint = Endpoint(spec.model, base_url.rstrip("/"), spec.key_variable)
        self._client: openai.AsyncOpenAI | None = None
        self.name, self.concurrency = spec.model, spec.concurrency

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

    def check(self) -> None:
        """Ask for a number; sees key, model, log-probabilities, and how numbers are spelled."""
        asyncio.run(self._check())

    async def _check(self) -> None:
        client = self._open(CHECK_TIMEOUT_S, CHECK_RETRIES)
        async with client:
            try:
                reply = await self._send(client, PROBE)
            except (openai.APIError, ValueError) as error:  # or a body that is not JSON
                raise self._endpoint.explained(error) from None
        if self._spec.read == "text":
            self._endpoint.check_number(self._read(reply))
            return
        who, advice = f"judge {self.name}: {self._endpoint.host}", "set `read: text`"
        likeliest = _likeliest(reply)
        if not likeliest:
            raise InputError(f"{who} gives no log-probabilities; {advice}")
        if max(likeliest, key=lambda text: likeliest[text]).strip() == "8":
            raise InputError(
                f"{who} spells 85 by its digits, so its first token is no score; {advice}"
            )

    async def ask(self, query: Query) -> Verdict:
        """One request, retried by the client."""
        assert self._client is not None, "the judge is not open"
        try:
            reply = await self._send(self._client, query.prompt)
        except openai.APIError as error:
            verdict = self._endpoint.verdict(error)
        except ValueError:
            verdict = Verdict("failed", said="a body that is not JSON")
        else:
            verdict = self._read(reply)
        return verdict

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

    async def _send(self, client: openai.AsyncOpenAI, prompt: str) -> Any:
        options = self._options()
        if self._spec.temperature is not None:
            options["temperature"] = self._spec.temperature
        return await client.chat.completions.create(
            model=self._spec.model, messages=[{"role": "user", "content": prompt}], **options
        )

    def _open(self, timeout_s: float, max_retries: int) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            api_key=self._endpoint.key(self._endpoint.base_url == OFFICIAL_URL),
            base_url=self._endpoint.base_url,
            timeout=timeout_s,
            max_retries=max_retries,
        )

    async def __aenter__(self) -> Self:
        self._client = self._open(self._spec.timeout_s, self._spec.max_retries)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None


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
