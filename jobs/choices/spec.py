"""The sweep file of ``job: choices``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, model_validator

from jobs.scoring.spec import (
    Measures,
    Models,
    NullsEntry,
    NullsSpec,
    Output,
    ScoredDataSpec,
    ScoredSpec,
    SteeringSpec,
    VectorsSpec,
)
from jobs.spec import CertificateSpec, ComputeSpec, SpecModel, StorageOptions, distinct, role
from steering_core.datasets.base import Frame
from steering_core.datasets.registry import DATASETS
from steering_core.protocol import PROTOCOLS, Protocol

if TYPE_CHECKING:
    FormatName = str
else:  # one of the registered data sets, which messages and the schema list
    FormatName = Literal[tuple(DATASETS)]


def _one_or_several(value: Any) -> Any:
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, bool) for one in values):
        raise ValueError("must be text; YAML reads yes and no as true and false, so quote them")
    return (value,) if isinstance(value, str) else value


Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(
        _one_or_several, json_schema_input_type=str | list[Annotated[str, Field(min_length=1)]]
    ),
    AfterValidator(distinct),
]
"""A text, or a list of different ones."""


class ChoicesDataSpec(ScoredDataSpec):
    """The examples to run."""

    path: str = Field(
        min_length=1,
        description="A JSON, JSON Lines, CSV, TSV or Parquet file; hf:owner/name for a data set on "
        "the Hugging Face hub; stereoset for the official development set, which is downloaded",
        json_schema_extra=role("runtime"),
    )
    format: FormatName | None = Field(
        None,
        description="What a record is; choices, the default, is a prompt with labeled candidates",
        json_schema_extra=role("identity"),
    )
    fields: dict[str, Any] | None = Field(
        None,
        description="With format: choices, which column holds what: {prompt: question, candidates: "
        "choices, correct: answer}",
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

    @model_validator(mode="after")
    def _options_of_a_template(self) -> Self:
        if self.chat_options and not self.chat:
            raise ValueError("must not set chat_options without chat: true")
        return self


class ContrastSpec(SpecModel):
    """What a steering vector tells apart; a key left out is the data set's usual one."""

    positive: Names | None = Field(
        None,
        min_length=1,
        description="Labels that the vector points to",
        json_schema_extra=role("identity"),
    )
    negative: Names | None = Field(
        None,
        min_length=1,
        description="Labels that it points away from",
        json_schema_extra=role("identity"),
    )
    by: Names | None = Field(
        None,
        description="Keys of the examples' group: one vector for each combination of their values; "
        "[] for one vector for all examples",
        json_schema_extra=role("identity"),
    )

    @model_validator(mode="after")
    def _two_sides(self) -> Self:
        both = sorted(set(self.positive or ()) & set(self.negative or ()))
        if both:
            raise ValueError(f"{both[0]!r} is both positive and negative")
        return self


class ChoicesSpec(ScoredSpec):
    """A sweep over any multiple-choice data."""

    job: Literal["choices"] = Field(json_schema_extra=role("identity"))
    models: Models
    data: ChoicesDataSpec
    contrast: ContrastSpec = ContrastSpec()  # type: ignore[call-arg]
    vectors: VectorsSpec = VectorsSpec()  # type: ignore[call-arg]
    steering: SteeringSpec
    nulls: NullsEntry = NullsSpec()  # type: ignore[call-arg]
    measures: Measures = ()
    compute: ComputeSpec = ComputeSpec()  # type: ignore[call-arg]
    certificate: CertificateSpec = CertificateSpec()  # type: ignore[call-arg]
    storage: StorageOptions = StorageOptions()  # type: ignore[call-arg]
    output: Output

    @model_validator(mode="after")
    def _pools_candidates(self) -> Self:
        if self.vectors.pooling == "all_positions":
            raise ValueError(
                "vectors.pooling: all_positions belongs to StereoSet's published protocol; use "
                "candidate or candidate_last"
            )
        return self

    def preset(self) -> Protocol:
        """See ``ScoredSpec``: candidates in context, vectors of all rows of a fit."""
        return replace(PROTOCOLS["aligned"], folds=1)

    def options(self) -> Mapping[str, Any]:
        """What reading the data takes of ``data``, by name."""
        data = self.data
        return {
            "fields": data.fields,
            "frame": data.frame,
            "candidate_orders": data.candidate_orders,
            "limit": data.limit,
            "seed": data.seed,
            "config": data.config,
            "split": data.split,
            "revision": data.revision,
        }
