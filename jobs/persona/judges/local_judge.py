"""A judge that is a chat model at hand: its next-token distribution, weighted as an API's is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from jobs.persona.judges.base import Judge, Query, Verdict
from jobs.persona.judges.reading import by_log_probs, number_masses, spelled_masses
from steersweep.errors import UserError

if TYPE_CHECKING:
    from jobs.persona.judges.spec import LocalJudgeSpec


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


def open_local(spec: LocalJudgeSpec, device: str, gpu_share: float) -> LocalJudge:
    """The judge of a spec. Reads the tokenizer, and loads the model when it is first asked.

    Raises:
        UserError: the model is missing, or is no chat model.
    """
    import torch

    from jobs.persona.prompts import check_undated
    from steering_core.chat import ChatFormat
    from steering_core.models import (
        load_model,
        load_tokenizer,
        read_facts,
        resolve_device,
        resolve_dtype,
    )
    from steering_core.next_tokens import ChatNextTokens, NumberTokens

    source = spec.source()
    tokenizer = load_tokenizer(source)
    name = f"judge ({spec.path})"
    numbers = NumberTokens.of(tokenizer, name)
    try:
        check_undated(ChatFormat(tokenizer, spec.path, options=spec.template), "judge.template")
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    facts = read_facts(source, tokenizer)
    where = resolve_device(device) if device == "auto" else torch.device(device)
    dtype = str(resolve_dtype(spec.dtype, where)).removeprefix("torch.")
    identity = {
        **({} if facts.code_digest is None else {"code_digest": facts.code_digest}),
        "model_digest": facts.digest,
        "tokenizer_digest": facts.tokenizer_digest,
        "chat_template": str(tokenizer.chat_template),
        "dtype": dtype,
        **({} if not spec.template else {"template": spec.template}),
    }

    def load() -> ChatDistribution:
        model = load_model(source, device=device, dtype=dtype, gpu_share=gpu_share)
        return ChatNextTokens(model, tokenizer, options=spec.template)

    return LocalJudge(spec.path, _LoadedWhenAsked(load, numbers.are_whole), identity)


class _LoadedWhenAsked:
    """A chat model that is loaded by the first query: the driver only needs its identity."""

    def __init__(self, load: Callable[[], ChatDistribution], numbers_are_tokens: bool) -> None:
        self.numbers_are_tokens = numbers_are_tokens
        self._load = load
        self._loaded: ChatDistribution | None = None

    def __call__(
        self, chat: Sequence[Mapping[str, str]], starts: Sequence[str] = ("",)
    ) -> Sequence[Mapping[str, float]]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded(chat, starts)
