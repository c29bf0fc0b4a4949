"""The ``judge`` of a persona spec: each kind of judge, and how it is opened.

The clients of APIs and torch take a second each to load, so ``open`` imports what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StrictInt
from pydantic_core import PydanticCustomError

from jobs.persona.judges.base import Judge, JudgeSettings
from jobs.persona.traits import Trait
from jobs.spec import HIDDEN_VALUE, AtLeastOne, ModelSpec, role

_TELLING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*_?(API_?KEY|TOKEN|SECRET)")


def _variable(name: str) -> str:
    # It may be a key that was written there by mistake.
    if not _TELLING_NAME.fullmatch(name):
        raise PydanticCustomError(
            HIDDEN_VALUE,
            "must be the name of an environment variable that ends in _API_KEY, _TOKEN or _SECRET; "
            "never write the key itself into a file",
        )
    return name


def _address(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise PydanticCustomError(
            HIDDEN_VALUE, "must not contain credentials; put the key into an environment variable"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http(s)://host[:port]/path")
    return url.rstrip("/")


Variable = Annotated[str, AfterValidator(_variable)]
Address = Annotated[str, AfterValidator(_address)]


class EndpointSpec(JudgeSettings):
    """What judges behind an address have in common."""

    is_server: ClassVar[bool] = True

    model: str = Field(
        min_length=1,
        description="Name of the model, as the server knows it",
        json_schema_extra=role("identity"),
    )
    max_tokens: AtLeastOne = Field(
        16,
        description="Length of an answer that is read as text; raise it for thinking models",
        json_schema_extra=role("identity"),
    )
    concurrency: Annotated[StrictInt, Field(ge=1, le=256)] = Field(
        16, description="Requests at the same time", json_schema_extra=role("runtime")
    )
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        60.0, description="Timeout of one attempt, in seconds", json_schema_extra=role("runtime")
    )
    max_retries: Annotated[StrictInt, Field(ge=0, le=100)] = Field(
        8,
        description="Retries of one request after 429, 5xx, timeouts and lost connections",
        json_schema_extra=role("runtime"),
    )


class OpenAIJudgeSpec(EndpointSpec):
    """A model behind the OpenAI API, or any server that speaks it (vLLM, llama.cpp, ...)."""

    kind: Literal["openai"] = Field(
        description="The kind of judge", json_schema_extra=role("identity")
    )
    base_url: Address | None = Field(
        None,
        description="Address of the API (default: OPENAI_BASE_URL, else the official one)",
        json_schema_extra=role("identity"),
    )
    key_variable: Variable = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the key",
        json_schema_extra=role("runtime"),
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        0.0,
        description="null: do not send it, for models that refuse it",
        json_schema_extra=role("identity"),
    )
    read: Literal["log_probs", "text"] = Field(
        "log_probs",
        description="log_probs: the mean over numbers, weighted by the probability of the first "
        "token; text: the number in the answer, for models that write numbers digit by digit "
        "or give no log-probabilities",
        json_schema_extra=role("identity"),
    )

    def open(self, traits: Sequence[Trait], device: str = "auto", gpu_share: float = 1.0) -> Judge:
        """See ``JudgeSettings``."""
        from jobs.persona.judges.openai_judge import OpenAIJudge

        return OpenAIJudge(self)


class AnthropicJudgeSpec(EndpointSpec):
    """A model behind the Anthropic API, which takes no temperature and samples."""

    kind: Literal["anthropic"] = Field(
        description="The kind of judge", json_schema_extra=role("identity")
    )
    base_url: Address | None = Field(
        None,
        description="Address of the API (default: ANTHROPIC_BASE_URL, else the official one)",
        json_schema_extra=role("identity"),
    )
    key_variable: Variable = Field(
        "ANTHROPIC_API_KEY",
        description="Environment variable that holds the key",
        json_schema_extra=role("runtime"),
    )

    def open(self, traits: Sequence[Trait], device: str = "auto", gpu_share: float = 1.0) -> Judge:
        """See ``JudgeSettings``."""
        from jobs.persona.judges.anthropic_judge import AnthropicJudge

        return AnthropicJudge(self)


class LocalJudgeSpec(ModelSpec, JudgeSettings):
    """A chat model on replicas of its own, placed as those of the steered models are."""

    kind: Literal["local"] = Field(
        description="The kind of judge", json_schema_extra=role("identity")
    )
    template: dict[str, Any] | None = Field(
        None,
        description="More options for the chat template, such as date_string",
        # Absent unless set, so that records and digests of other judges stay what they were.
        exclude_if=lambda value: value is None,
        json_schema_extra=role("identity"),
    )

    @property
    def local_model(self) -> ModelSpec:
        """See ``JudgeSettings``."""
        return self

    def open(self, traits: Sequence[Trait], device: str = "auto", gpu_share: float = 1.0) -> Judge:
        """See ``JudgeSettings``."""
        from jobs.persona.judges.local_judge import open_local

        return open_local(self, device, gpu_share)


class WordListJudgeSpec(JudgeSettings):
    """Counts words: free and the same each time, for demonstrations and tests."""

    kind: Literal["word_list"] = Field(
        description="The kind of judge", json_schema_extra=role("identity")
    )
    words: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Words of each trait (default: words of its positive instructions that its "
        "negative ones do not have)",
        json_schema_extra=role("identity"),
    )
    words_for_100: AtLeastOne = Field(
        3,
        description="Number of listed words in an answer that gives a score of 100",
        json_schema_extra=role("identity"),
    )

    def open(self, traits: Sequence[Trait], device: str = "auto", gpu_share: float = 1.0) -> Judge:
        """See ``JudgeSettings``."""
        from jobs.persona.judges.word_list import WordListJudge, telling_words

        words = {trait.name: self.words.get(trait.name) or telling_words(trait) for trait in traits}
        return WordListJudge(words, self.words_for_100)


JudgeSpec = Annotated[
    OpenAIJudgeSpec | AnthropicJudgeSpec | LocalJudgeSpec | WordListJudgeSpec,
    Field(discriminator="kind"),
]
"""What ``judge`` of a sweep file may be, by ``kind``. A new kind of judge is named here."""
