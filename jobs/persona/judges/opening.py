"""From the spec's ``judge`` to a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jobs.persona.judges.base import Judge
from jobs.persona.judges.local_judge import ChatDistribution, LocalJudge
from jobs.persona.judges.spec import (
    AnthropicJudgeSpec,
    JudgeSpec,
    LocalJudgeSpec,
    OpenAIJudgeSpec,
    WordListJudgeSpec,
)
from jobs.persona.judges.word_list import WordListJudge, telling_words
from jobs.persona.traits import Trait

# Clients and torch take a second to load each; only the judge that is used is.


def open_judge(
    spec: JudgeSpec, traits: Sequence[Trait], device: str = "auto", gpu_share: float = 1.0
) -> Judge:
    """The judge that a spec describes; a local model is loaded when it is first asked.

    Args:
        traits: those to be scored, for a judge that goes by words.
        device: of a local model; a kind that this machine need not have.
        gpu_share: part of a GPU that a local model may take.

    Raises:
        UserError: a local model that is not there, or is no chat model.
    """
    if isinstance(spec, OpenAIJudgeSpec):
        from jobs.persona.judges.openai_judge import OpenAIJudge

        return OpenAIJudge(spec)
    if isinstance(spec, AnthropicJudgeSpec):
        from jobs.persona.judges.anthropic_judge import AnthropicJudge

        return AnthropicJudge(spec)
    if isinstance(spec, LocalJudgeSpec):
        return _local(spec, device, gpu_share)
    assert isinstance(spec, WordListJudgeSpec)
    words = {trait.name: spec.words.get(trait.name) or telling_words(trait) for trait in traits}
    return WordListJudge(words, spec.words_for_100)


def _local(spec: LocalJudgeSpec, device: str, gpu_share: float) -> Judge:
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
    from steersweep.errors import UserError

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
    """A chat model of which the driver only has to know what it is."""

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
