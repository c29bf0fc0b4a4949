"""The sweep file of ``job: choices``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from jobs.datasets.spec import ExamplesSpec
from jobs.scoring.side_effects_spec import Prompts, SideEffects, SideEffectsSpec
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
from steering_core.protocol import PROTOCOLS, Protocol


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


class ChoicesDataSpec(ExamplesSpec, ScoredDataSpec):
    """The examples to run."""


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

    job: Literal["choices"] = Field(
        description="The kind of sweep", json_schema_extra=role("identity")
    )
    models: Models
    data: ChoicesDataSpec
    contrast: ContrastSpec = ContrastSpec()  # type: ignore[call-arg]
    vectors: VectorsSpec = VectorsSpec()  # type: ignore[call-arg]
    steering: SteeringSpec
    nulls: NullsEntry = NullsSpec()  # type: ignore[call-arg]
    measures: Measures = ()
    side_effects: SideEffects = SideEffectsSpec()  # type: ignore[call-arg]
    prompts: Prompts = Field({})
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
