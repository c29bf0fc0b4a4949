"""A judge behind the Anthropic API, which gives no log-probabilities: it says its number."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Self

import anthropic

from jobs.persona.judges.base import Judge, Query, Verdict
from jobs.persona.judges.endpoint import (
    CHECK_RETRIES,
    CHECK_TIMEOUT_S,
    PROBE,
    Endpoint,
)
from jobs.persona.judges.reading import by_text
from jobs.persona.judges.spec import AnthropicJudgeSpec

OFFICIAL_URL = "https://api.anthropic.com"


class AnthropicJudge(Judge):
    """Reads the one number in the text."""

    def __init__(self, spec: AnthropicJudgeSpec) -> None:
        self._spec = spec
        base_url = spec.base_url or os.environ.get("ANTHROPIC_BASE_URL") or OFFICIAL_URL
        self._endpoint = Endpoint(spec.model, base_url.rstrip("/"), spec.key_variable)
        self._client: anthropic.AsyncAnthropic | None = None
        self.name, self.concurrency = spec.model, spec.concurrency

    def identity(self) -> Mapping[str, object]:
        """Model, address and settings of the request."""
        return {
            "kind": "anthropic",
            "model": self._spec.model,
            "base_url": self._endpoint.base_url,
            "max_tokens": self._spec.max_tokens,
        }

    def check(self) -> None:
        """Ask for a number; sees key and model."""
        asyncio.run(self._check())

    async def _check(self) -> None:
        async with self._open(CHECK_TIMEOUT_S, CHECK_RETRIES) as client:
            try:
                reply = await self._send(client, PROBE)
            except (anthropic.APIError, ValueError) as error:  # or a body that is not JSON
                raise self._endpoint.explained(error) from None
        self._endpoint.check_number(_read(reply))

    async def ask(self, query: Query) -> Verdict:
        """One request, retried by the client."""
        assert self._client is not None, "the judge is not open"
        try:
            reply = await self._send(self._client, query.prompt)
        except anthropic.APIError as error:
            return self._endpoint.verdict(error)
        except ValueError:
            return Verdict("failed", said="a body that is not JSON")
        return _read(reply)

    async def _send(self, client: anthropic.AsyncAnthropic, prompt: str) -> Any:
        return await client.messages.create(
            model=self._spec.model,
            max_tokens=self._spec.max_tokens,
            messages=[{"role": "user", "content": prompt}],
        )

    def _open(self, timeout_s: float, max_retries: int) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
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


def _read(reply: Any) -> Verdict:
    usage = getattr(reply, "usage", None)
    tokens = (
        int(getattr(usage, "input_tokens", 0) or 0),
        int(getattr(usage, "output_tokens", 0) or 0),
    )
    try:
        if reply.stop_reason == "refusal":
            return Verdict("refused", None, "by the judge", *tokens)
        found = by_text("".join(b.text for b in reply.content if b.type == "text"))
    except (AttributeError, TypeError):
        return Verdict("unparsable", None, "a reply without the expected fields", *tokens)
    return Verdict(found.outcome, found.score, found.said, *tokens)
