"""What a sweep file says of multiple-choice examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from jobs.data import OFFICIAL
from jobs.datasets.hub import HUB
from jobs.resources import EMBEDDED
from jobs.spec import SpecModel, role
from steering_core.datasets.base import Frame
from steering_core.datasets.registry import DATASETS

if TYPE_CHECKING:
    FormatName = str
else:  # one of the registered data sets, which messages and the schema list
    FormatName = Literal[tuple(DATASETS)]


class ExamplesSpec(SpecModel):
    """Where multiple-choice examples come from, and how they are put to a model."""

    path: str = Field(
        min_length=1,
        description="A JSON, JSON Lines, CSV, TSV, Parquet or text file; hf:owner/name for a data "
        "set on the Hugging Face hub; stereoset for the official development set, which is "
        "downloaded",
        json_schema_extra=role("runtime"),
    )
    format: FormatName | None = Field(
        None,
        description="What a record is; choices, the default, is a prompt with labeled candidates; "
        "text is a text whose tokens are all scored",
        json_schema_extra=role("identity"),
    )
    fields: dict[str, Any] | None = Field(
        None,
        description="Which column holds what, with format: choices, {prompt: question, candidates: "
        "choices, correct: answer}; with format: text, {text: article}",
        json_schema_extra=role("runtime"),
    )
    config: str | None = Field(
        None, description="Configuration of a hub data set", json_schema_extra=role("runtime")
    )
    split: str | None = Field(
        None, description="Split of a hub data set", json_schema_extra=role("runtime")
    )
    revision: str | None = Field(
        None, description="Commit, tag or branch on the hub", json_schema_extra=role("runtime")
    )
    frame: Frame = Field(
        "as_given",
        description="as_given: score the data set's own texts; letters: list the options as A., "
        "B., ... and score the letters; cloze: score each option's text without a list",
        json_schema_extra=role("identity"),
    )
    candidate_orders: StrictInt = Field(
        1,
        ge=1,
        le=24,
        description="Score every example under so many seeded orders of its candidates, and report "
        "how much the position matters",
        json_schema_extra=role("identity"),
    )
    chat: StrictBool = Field(
        False,
        description="Put each prompt into the model's chat template; the candidate begins the "
        "model's answer",
        json_schema_extra=role("identity"),
    )
    chat_options: dict[str, str] = Field(
        {},
        description="More for the chat template, such as {date_string: 26 Jul 2024}",
        json_schema_extra=role("identity"),
    )
    limit: StrictInt | None = Field(
        None,
        ge=1,
        description="Number of examples, drawn at random with the seed",
        json_schema_extra=role("identity"),
    )
    seed: StrictInt = Field(
        0,
        description="Random seed for drawing examples, orders and folds",
        json_schema_extra=role("identity"),
    )

    @property
    def format_name(self) -> str:
        """The format, which ``path: stereoset`` tells as well."""
        return self.format or ("stereoset" if self.path == "stereoset" else "choices")

    @property
    def is_file(self) -> bool:
        """Whether it is read from a file of the user's, which is not downloaded."""
        return not (self.path.startswith((HUB, EMBEDDED)) or self.path == OFFICIAL)

    @model_validator(mode="after")
    def _options_of_a_template(self) -> Self:
        if self.chat_options and not self.chat:
            raise ValueError("must not set chat_options without chat: true")
        return self

    def options(self) -> Mapping[str, Any]:
        """What ``load_examples`` takes besides path and format, by name."""
        return {
            "fields": self.fields,
            "frame": self.frame,
            "candidate_orders": self.candidate_orders,
            "limit": self.limit,
            "seed": self.seed,
            "config": self.config,
            "split": self.split,
            "revision": self.revision,
        }
