"""A judge behind the Anthropic API, which gives no log-probabilities: it says its number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anthropic

from jobs.persona.judges.api_judge import ApiJudge
from jobs.persona.judges.base import Verdict
from jobs.persona.judges.reading import by_text
from jobs.persona.judges.spec import AnthropicJudgeSpec


class AnthropicJudge(ApiJudge):
    """Reads the one number in the text."""

    client_type = anthropic.AsyncAnthropic
    api_error = anthropic.APIError
    official_url = "https://api.anthropic.com"
    url_variable = "ANTHROPIC_BASE_URL"

    def __init__(self, spec: AnthropicJudgeSpec) -> None:
        super().__init__(spec)
        self._spec = spec

    def identity(self) -> Mapping[str, object]:
        """Model, address and settings of the request."""
        return {
            "kind": "anthropic",
            "model": self._spec.model,
            "base_url": self._endpoint.base_url,
            "max_tokens": self._spec.max_tokens,
        }

    async def _send(self, client: Any, prompt: str) -> Any:
        return await client.messages.create(
            model=self._spec.model,
            max_tokens=self._spec.max_tokens,
            messages=[{"role": "user", "content": prompt}],
        )

    def _read(self, reply: Any) -> Verdict:
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
