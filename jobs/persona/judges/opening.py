"""From the spec's ``judge`` to a judge."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.persona.judges.base import Judge
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


def open_judge(spec: JudgeSpec, traits: Sequence[Trait]) -> Judge:
    """The judge that a spec describes; a local one is loaded here.

    Args:
        traits: those to be scored, for a judge that goes by words.

    Raises:
        InputError: a local model that cannot be loaded, or is no chat model.
    """
    if isinstance(spec, OpenAIJudgeSpec):
        from jobs.persona.judges.openai_judge import OpenAIJudge

        return OpenAIJudge(spec)
    if isinstance(spec, AnthropicJudgeSpec):
        from jobs.persona.judges.anthropic_judge import AnthropicJudge

        return AnthropicJudge(spec)
    if isinstance(spec, LocalJudgeSpec):
        return _local(spec)
    assert isinstance(spec, WordListJudgeSpec)
    words = {trait.name: spec.words.get(trait.name) or telling_words(trait) for trait in traits}
    return WordListJudge(words, spec.words_for_100)


def _local(spec: LocalJudgeSpec) -> Judge:
    from jobs.persona.judges.local_judge import LocalJudge
    from steering_core.models import ModelSource, load_model, load_tokenizer, read_facts
    from steering_core.next_tokens import ChatNextTokens

    source = ModelSource(spec.path, spec.revision, spec.trust_remote_code)
    tokenizer = load_tokenizer(source)
    facts = read_facts(source, tokenizer)
    model = load_model(source, device=spec.device, dtype=spec.dtype)
    identity = {
        "model_digest": facts.digest,
        "tokenizer_digest": facts.tokenizer_digest,
        "chat_template": str(tokenizer.chat_template),
        "dtype": str(model.dtype),
    }
    return LocalJudge(spec.path, ChatNextTokens(model, tokenizer), identity)
