"""The prompts that a persona sweep asks: rendered and checked once, before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.persona.traits import Trait
from steering_core.chat import ChatFormat
from steersweep.errors import UserError

_MOST_CHARACTERS = 60

PromptKey = tuple[str, str | None]
"""A question and the system text that it is asked under; None: under none."""


@dataclass(frozen=True)
class Prompt:
    """A question as one model reads it.

    Attributes:
        digest: SHA-256 of the token ids, in their place wherever an id covers the prompt.
    """

    token_ids: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class TraitQuestions:
    """What is asked about one trait.

    Attributes:
        contrasted: questions that are asked under each instruction; none if the spec brings
            vectors.
        steered: questions that are asked while steering, under no instruction.
    """

    trait: Trait
    contrasted: tuple[str, ...]
    steered: tuple[str, ...]

    def prompts(self) -> Iterator[tuple[PromptKey, str]]:
        """Every prompt, with words that say which it is; a prompt may come twice."""
        for number, pair in enumerate(self.trait.instructions, 1):
            systems = {
                "positive": self.trait.positive_system(pair),
                "negative": self.trait.negative_system(pair),
            }
            for question in self.contrasted:
                for polarity, system in systems.items():
                    words = f"question {_shortened(question)} under {polarity} instruction {number}"
                    yield (question, system), words
        for question in self.steered:
            yield (question, None), f"question {_shortened(question)}"


def render_prompts(
    chat: ChatFormat, questions: Mapping[str, TraitQuestions]
) -> dict[PromptKey, Prompt]:
    """Every prompt of a model, each rendered once although many cells ask it.

    Raises:
        UserError: the chat template refuses a question, which is named.
    """
    prompts: dict[PromptKey, Prompt] = {}
    for trait, asked in questions.items():
        for key, words in asked.prompts():
            if key in prompts:
                continue
            try:
                token_ids = chat.prompt_ids(*key)
            except UserError as error:
                raise UserError(f"trait {trait}, {words}: {error}") from error
            prompts[key] = Prompt(token_ids, _digest_of(token_ids))
    return prompts


def check_fit(
    prompts: Mapping[PromptKey, Prompt],
    questions: Mapping[str, TraitQuestions],
    max_new_tokens: int,
    max_tokens: int | None,
) -> None:
    """Raise UserError if a prompt and its longest answer exceed the model's positions.

    Args:
        max_tokens: positions of the model; None if its config does not say.
    """
    if max_tokens is None:
        return
    too_long = {
        key: (f"trait {trait}, {words}", len(prompts[key].token_ids))
        for trait, asked in questions.items()
        for key, words in asked.prompts()
        if len(prompts[key].token_ids) + max_new_tokens > max_tokens
    }
    if too_long:
        words, num = max(too_long.values(), key=lambda entry: entry[1])
        more = f" ({len(too_long):,} prompts are too long, this is the longest)"
        raise UserError(
            f"{words}: the prompt has {num:,} tokens, and up to {max_new_tokens:,} new ones "
            f"(generation.max_new_tokens) would follow, but the model has {max_tokens:,} "
            f"positions{more if len(too_long) > 1 else ''}; shorten the text, or lower "
            "generation.max_new_tokens"
        )


def check_undated(chat: ChatFormat, key: str) -> None:
    """Raise UserError if the chat template writes today's date into prompts.

    Args:
        key: of the spec, for options of the template.
    """
    if not chat.writes_the_date:
        return
    options = chat.options_for_the_date()
    fix = (
        f'set {key}: {{{options[0]}: "26 Jul 2024"}}, or another date'
        if options
        else "it has no option for the date, so save the model in a folder whose chat template has "
        "the date written out"
    )
    raise UserError(
        "the chat template writes today's date into each prompt, so the same sweep would ask "
        f"different prompts tomorrow; {fix}"
    )


def prompts_digest(prompts: Mapping[PromptKey, Prompt], asked: TraitQuestions) -> str:
    """SHA-256 over the prompts of a trait, in their order."""
    return hashlib.sha256(
        "".join(prompts[key].digest for key, _ in asked.prompts()).encode()
    ).hexdigest()


def _digest_of(token_ids: Sequence[int]) -> str:
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()


def _shortened(question: str) -> str:
    line = " ".join(question.split())
    return repr(line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 1]}…")
