"""A judge behind an API: connection, check, and what becomes of errors."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from typing import Any, ClassVar, Self

from jobs.persona.judges.base import Judge, Query, Verdict
from jobs.persona.judges.endpoint import CHECK_RETRIES, CHECK_TIMEOUT_S, PROBE, Endpoint
from jobs.persona.judges.spec import AnthropicJudgeSpec, OpenAIJudgeSpec


class ApiJudge(Judge):
    """Asks through a client of the OpenAI or the Anthropic package, which are alike.

    Attributes:
        client_type: its asynchronous client.
        api_error: what it raises for a request that did not come through.
        official_url: where it asks where nothing else is set; there a key is needed.
        url_variable: environment variable that may hold another address.
    """

    client_type: ClassVar[Any]
    api_error: ClassVar[type[Exception]]
    official_url: ClassVar[str]
    url_variable: ClassVar[str]

    def __init__(self, spec: OpenAIJudgeSpec | AnthropicJudgeSpec) -> None:
        base_url = spec.base_url or os.environ.get(self.url_variable) or self.official_url
        self._endpoint = Endpoint(spec.model, base_url.rstrip("/"), spec.key_variable)
        self._timeout_s, self._max_retries = spec.timeout_s, spec.max_retries
        self._client: Any = None
        self.name, self.concurrency = spec.model, spec.concurrency

    @abstractmethod
    async def _send(self, client: Any, prompt: str) -> Any:
        """The reply to one prompt, retried by the client; raises `api_error`."""

    @abstractmethod
    def _read(self, reply: Any) -> Verdict:
        """What the reply says."""

    def check(self) -> None:
        """Ask for a number; sees key, model, and whether the reply can be read."""
        asyncio.run(self._check())

    async def _check(self) -> None:
        async with self._open(CHECK_TIMEOUT_S, CHECK_RETRIES) as client:
            try:
                reply = await self._send(client, PROBE)
            except (self.api_error, ValueError) as error:  # or a body that is not JSON
                raise self._endpoint.explained(error) from None
        self._check_reply(reply)

    def _check_reply(self, reply: Any) -> None:
        """Raise UserError for a reply to `PROBE` that no score can be read from."""
        self._endpoint.check_number(self._read(reply))

    async def ask(self, query: Query) -> Verdict:
        """One request."""
        assert self._client is not None, "the judge is not open"
        try:
            reply = await self._send(self._client, query.prompt)
        except self.api_error as error:
            return self._endpoint.verdict(error)
        except ValueError:
            return Verdict("failed", said="a body that is not JSON")
        return self._read(reply)

    def _open(self, timeout_s: float, max_retries: int) -> Any:
        return self.client_type(
            api_key=self._endpoint.key(self._endpoint.base_url == self.official_url),
            base_url=self._endpoint.base_url,
            timeout=timeout_s,
            max_retries=max_retries,
        )

    async def __aenter__(self) -> Self:
        self._client = self._open(self._timeout_s, self._max_retries)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
