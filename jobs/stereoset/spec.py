"""The sweep file of ``job: stereoset``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictInt

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
from jobs.spec import CertificateSpec, ComputeSpec, StorageOptions, distinct, role
from steering_core.protocol import PROTOCOLS, Protocol, ProtocolName, Scoring
from steering_core.stereoset import BIAS_TYPES, SPLITS


def _one_of(values: Sequence[str]) -> Any:
    def check(value: str) -> str:
        if value not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return value

    return AfterValidator(check)


class DataSpec(ScoredDataSpec):
    """The examples to run."""

    path: str = Field(
        min_length=1,
        description="StereoSet's dev.json; stereoset: the official one, downloaded into the cache",
        json_schema_extra=role("identity"),
    )
    splits: Annotated[tuple[Annotated[str, _one_of(SPLITS)], ...], AfterValidator(distinct)] = (
        Field(
            SPLITS,
            min_length=1,
            description="Parts of StereoSet: intersentence (a sentence follows a context), "
            "intrasentence (a word fills a blank)",
            json_schema_extra=role("grid"),
        )
    )
    bias_types: Annotated[
        tuple[Annotated[str, _one_of(BIAS_TYPES)], ...], AfterValidator(distinct)
    ] = Field(
        BIAS_TYPES,
        min_length=1,
        description="Groups of examples; vectors are fitted for each group separately",
        json_schema_extra=role("grid"),
    )
    limit: StrictInt | None = Field(
        None,
        ge=1,
        description="Number of examples of each split and bias type, drawn at random with the seed",
        json_schema_extra=role("identity"),
    )
    seed: StrictInt = Field(
        0,
        description="Random seed for drawing examples and folds",
        json_schema_extra=role("identity"),
    )


class StereoSetSpec(ScoredSpec):
    """A sweep over StereoSet."""

    job: Literal["stereoset"] = Field(
        description="The kind of sweep", json_schema_extra=role("identity")
    )
    models: Models
    data: DataSpec
    protocol: ProtocolName = Field(
        "as_published",
        description="Preset of vectors.pooling, vectors.read, vectors.folds, steering.apply and "
        "scoring",
        json_schema_extra=role("identity"),
    )
    vectors: VectorsSpec = VectorsSpec()  # type: ignore[call-arg]
    steering: SteeringSpec
    scoring: Scoring | None = Field(
        None,
        description="as_published: each candidate is encoded alone, and each token read one "
        "position late; aligned: the candidate's tokens in their context, where they are "
        "predicted. The default is the protocol's",
        json_schema_extra=role("identity"),
    )
    nulls: NullsEntry = NullsSpec()  # type: ignore[call-arg]
    measures: Measures = ()
    side_effects: SideEffects = SideEffectsSpec()  # type: ignore[call-arg]
    prompts: Prompts = Field({})
    compute: ComputeSpec = ComputeSpec()  # type: ignore[call-arg]
    certificate: CertificateSpec = CertificateSpec()  # type: ignore[call-arg]
    storage: StorageOptions = StorageOptions()  # type: ignore[call-arg]
    output: Output

    def preset(self) -> Protocol:
        """See ``ScoredSpec``; the protocol's scoring may be set by itself."""
        preset = PROTOCOLS[self.protocol]
        return replace(preset, scoring=self.scoring or preset.scoring)
