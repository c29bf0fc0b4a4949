"""The sweep file of ``job: persona``."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, StrictInt, model_validator

from jobs.grid import Coeffs, Layers
from jobs.persona.filter import FilterSpec
from jobs.persona.judges.spec import JudgeSpec
from jobs.scoring.side_effects_spec import SideEffects, SideEffectsSpec, check_cells
from jobs.spec import (
    AtLeastOne,
    CertificateSpec,
    ComputeSpec,
    JobSpec,
    ModelEntry,
    ModelName,
    SpecModel,
    StorageOptions,
    distinct,
    role,
)
from steering_core.chat import ChatFormat, SystemRole
from steering_core.steerer import GenerationPositions

StatePooling = Literal["response_mean", "prompt_mean", "prompt_last"]
POOLINGS: tuple[StatePooling, ...] = get_args(StatePooling)


class TraitSpec(SpecModel):
    """A trait's files."""

    path: str = Field(
        min_length=1,
        description="JSON file with instruction, questions and eval_prompt, for the vector",
        json_schema_extra=role("identity"),
    )
    steered: str | None = Field(
        None,
        min_length=1,
        description="Another such file, whose questions are asked when steering (default: path)",
        json_schema_extra=role("identity"),
    )
    vectors: str | None = Field(
        None,
        min_length=1,
        description="Take the trait's vectors from this file (this project's safetensors, or "
        "another tool's) instead of contrasting answers; a path or s3://bucket/key",
        json_schema_extra=role("identity"),
    )


class ContrastSpec(SpecModel):
    """The answers that vectors are made of."""

    rollouts: AtLeastOne = Field(
        1,
        description="Answers to each pair of an instruction and a question",
        json_schema_extra=role("identity"),
    )
    questions: AtLeastOne | None = Field(
        None,
        description="Use only the first questions, this many",
        json_schema_extra=role("identity"),
    )


class GenerationSpec(SpecModel):
    """How answers are written; the model's own generation config is not applied."""

    max_new_tokens: AtLeastOne = Field(256, json_schema_extra=role("identity"))
    greedy: bool = Field(False, strict=True, json_schema_extra=role("identity"))
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1.0, json_schema_extra=role("identity")
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, json_schema_extra=role("identity"))
    seed: StrictInt = Field(0, json_schema_extra=role("identity"))
    system: SystemRole = Field(
        "merge_into_user",
        description="What to do if the chat template has no system role",
        json_schema_extra=role("identity"),
    )
    template: dict[str, Any] = Field(
        default_factory=dict,
        description="Further variables for the chat template, such as date_string",
        json_schema_extra=role("identity"),
    )
    rows_at_once: Literal["auto"] | AtLeastOne = Field(
        "auto",
        description="Answers generated at the same time. auto: 256 on CUDA, 64 elsewhere",
        json_schema_extra=role("runtime"),
    )

    def num_slots(self, device: str) -> int:
        """Answers generated at the same time on a kind of device."""
        if self.rows_at_once != "auto":
            return self.rows_at_once
        # A step costs a GPU nearly the same with more answers, until its memory is read for them.
        return 256 if device == "cuda" else 64

    def chat_format(self, tokenizer: Any, model: str) -> ChatFormat:
        """Prompts for a model of that name; see ``ChatFormat`` for what it refuses."""
        return ChatFormat(tokenizer, model, system=self.system, options=self.template)


class PersonaVectorsSpec(SpecModel):
    """How vectors are made of the effective pairs."""

    pooling: StatePooling = Field(
        "response_mean",
        description="States whose mean difference steers; the other differences are stored too",
        json_schema_extra=role("identity"),
    )


class PersonaSteeringSpec(SpecModel):
    """The steered grid."""

    layers: Layers = Field(
        description="1-based: L is blocks.{L-1}.resid_post, the stream after block L. A number, a "
        "range such as 1-25:2, a list of these, or all",
        json_schema_extra=role("grid"),
    )
    coeffs: Coeffs = Field(
        tuple(Decimal(c) for c in (-3, -1, 0, 1, 3, 5)),
        description="Multipliers of the vector; one or a list",
        json_schema_extra=role("grid"),
    )
    positions: Annotated[tuple[GenerationPositions, ...], AfterValidator(distinct)] = Field(
        ("response",),
        min_length=1,
        description="response: the last prompt token and each new one; prompt; all",
        json_schema_extra=role("grid"),
    )
    rollouts: AtLeastOne = Field(1, json_schema_extra=role("identity"))
    questions: AtLeastOne | None = Field(
        None,
        description="Use only the first questions, this many",
        json_schema_extra=role("identity"),
    )


class PersonaSpec(JobSpec):
    """Persona vectors: found, steered with, judged, watched and compared."""

    job: Literal["persona"] = Field(json_schema_extra=role("identity"))
    models: dict[ModelName, ModelEntry] = Field(min_length=1, json_schema_extra=role("grid"))
    traits: dict[ModelName, TraitSpec] = Field(min_length=1, json_schema_extra=role("grid"))
    contrast: ContrastSpec = ContrastSpec()  # type: ignore[call-arg]
    generation: GenerationSpec = GenerationSpec()  # type: ignore[call-arg]
    judge: JudgeSpec
    filter: FilterSpec = FilterSpec()  # type: ignore[call-arg]
    vectors: PersonaVectorsSpec = PersonaVectorsSpec()  # type: ignore[call-arg]
    steering: PersonaSteeringSpec
    side_effects: SideEffects = SideEffectsSpec()  # type: ignore[call-arg]
    compute: ComputeSpec = ComputeSpec()  # type: ignore[call-arg]
    certificate: CertificateSpec = CertificateSpec()  # type: ignore[call-arg]
    storage: StorageOptions = StorageOptions()  # type: ignore[call-arg]
    output: str = Field(
        min_length=1, description="Folder or s3://bucket/prefix", json_schema_extra=role("runtime")
    )

    @model_validator(mode="after")
    def _side_effects_of_vectors(self) -> Self:
        if self.side_effects.transfer:
            raise ValueError(
                "side_effects.transfer is not available for job: persona, which has no data of its "
                "own to steer with another trait's vectors; name data sets instead"
            )
        check_cells(self.side_effects, self.steering.layers, self.steering.coeffs)
        return self
