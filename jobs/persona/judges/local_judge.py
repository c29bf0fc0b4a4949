"""A judge that is a chat model at hand: its next-token distribution, weighted as an API's is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from jobs.persona.judges.base import Judge, Query, Verdict
from jobs.persona.judges.reading import by_log_probs, number_masses, spelled_masses


class ChatDistribution(Protocol):
    """As ``steering_core.next_tokens.ChatNextTokens``, or what loads one when it is called."""

    numbers_are_tokens: bool

    def __call__(
        self, chat: Sequence[Mapping[str, str]], starts: Sequence[str] = ("",)
    ) -> Sequence[Mapping[str, float]]:
        """For each start of an answer, log-probabilities of the next token by its text."""


class LocalJudge(Judge):
    """Scores with a callable that gives next-token log-probabilities.

    Where the tokenizer spells numbers by digits, the digits are followed (``spelled_masses``).
    """

    is_worth_keeping = False
    needs_replica = True

    def __init__(
        self, name: str, distribution: ChatDistribution, identity: Mapping[str, object]
    ) -> None:
        """Wrap a callable.

        Args:
            identity: names the model exactly: digests of weights and tokenizer, dtype.
        """
        self.name = name
        self._distribution, self._identity = distribution, dict(identity)

    def identity(self) -> Mapping[str, object]:
        """What was given, and how numbers are read."""
        spelled = not self._distribution.numbers_are_tokens
        return {"kind": "local", "spelled": spelled, **self._identity}

    def check(self) -> None:
        """One call, which loads the model where that has not been done."""
        self._distribution([{"role": "user", "content": "Say a number."}])

    async def ask(self, query: Query) -> Verdict:
        """One call in a thread."""
        return await asyncio.to_thread(self._ask, query)

    def _ask(self, query: Query) -> Verdict:
        chat = [{"role": "user", "content": query.prompt}]
        first = self._distribution(chat)[0]
        if self._distribution.numbers_are_tokens:
            return by_log_probs(first, number_masses(first.items()))

        def behind(starts: Sequence[str]) -> Sequence[Mapping[str, float]]:
            return [first] if list(starts) == [""] else self._distribution(chat, starts)

        return by_log_probs(first, spelled_masses(behind))
