"""What the sweep files of jobs that score candidates have in common: keys and their checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, model_validator

from jobs.grid import ALL_LAYERS, Coeffs, Layers
from jobs.scoring.side_effects_spec import SideEffectsSpec, check_cells
from jobs.spec import (
    CertificateSpec,
    JobSpec,
    ModelEntry,
    ModelName,
    ModelSpec,
    SpecModel,
    distinct,
    role,
)
from steering_core.hook_points import Site
from steering_core.interventions import OPERATIONS, Positions
from steering_core.nulls import NULLS, Null
from steering_core.protocol import Pooling, Protocol
from steering_core.scoring import Measure
from steering_core.vector_fits import METHODS
from steering_core.vectors import Unit

MOST_DRAWS = 1000


if TYPE_CHECKING:
    MethodName = str
    OperationName = str
else:  # one of the registered names, which messages and the schema list
    MethodName = Literal[tuple(METHODS)]
    OperationName = Literal[tuple(OPERATIONS)]


class VectorsSpec(SpecModel):
    """How steering vectors are made; but for the first two, a key left out is the protocol's."""

    file: str | None = Field(
        None,
        min_length=1,
        description="Take the vectors of every group from this file instead (this project's "
        "safetensors, or another tool's); a path or s3://bucket/key",
        json_schema_extra=role("identity"),
    )
    method: MethodName = Field(
        "mean_difference",
        description="How vectors are fitted; each is scaled to the norm of the mean difference",
        json_schema_extra=role("identity"),
    )
    pooling: Pooling | None = Field(None, json_schema_extra=role("identity"))
    read: Site | None = Field(
        None, description="Site of block layer - 1", json_schema_extra=role("identity")
    )
    folds: StrictInt | None = Field(
        None,
        ge=1,
        le=1000,
        description="1: fit on the rows that are then steered; k: cross-fit in at most k folds by "
        "cluster, in StereoSet the target term (a group with fewer uses one fold per cluster)",
        json_schema_extra=role("identity"),
    )
    held_out: StrictBool | None = Field(
        None,
        description="With folds: 1, steer the same grid also with vectors that were fitted without "
        "the examples they steer (five folds by cluster, in StereoSet the target term). The "
        "default is true for a new output; an output that was started without held-out vectors "
        "goes on without them",
        json_schema_extra=role("grid"),
    )

    @model_validator(mode="after")
    def _either_file_or_fit(self) -> Self:
        if self.file is not None and self.held_out:
            raise ValueError(
                "must not set held_out together with file, whose vectors are not fitted here"
            )
        if self.file is not None and (self.method != "mean_difference" or (self.folds or 1) > 1):
            raise ValueError(
                "must not set method or folds together with file, which already holds the vectors"
            )
        return self


class SteeringSpec(SpecModel):
    """The steered grid."""

    layers: Layers = Field(
        description="1-based: 1 is the stream after the first block. A number, a range such as "
        "1-25:2, a list of these, or all",
        json_schema_extra=role("grid"),
    )
    coeffs: Coeffs = Field(
        description="Multipliers of the vector, or what the operation takes; one or a list",
        json_schema_extra=role("grid"),
    )
    unit: Unit = Field(
        "vector",
        description="vector: add coeff times the vector; stream: add coeff times the mean norm of "
        "the residual stream, in the vector's direction, so that 0.1 is a push by a tenth of the "
        "stream at any layer of any model",
        json_schema_extra=role("identity"),
    )
    apply: Site | None = Field(
        None, description="Site of block layer - 1", json_schema_extra=role("identity")
    )
    positions: Positions | None = Field(
        None,
        description="Positions that are steered; last: the question's last token",
        json_schema_extra=role("identity"),
    )
    operation: OperationName = Field(
        "add",
        description="add: add coeff times the vector; project_out: subtract coeff times the "
        "projection; cap_above, cap_below: keep the projection at most, at least coeff",
        json_schema_extra=role("identity"),
    )

    @model_validator(mode="after")
    def _unit_of_what_is_added(self) -> Self:
        if self.unit == "stream" and self.operation != "add":
            raise ValueError(
                f"must not set unit: stream together with operation: {self.operation}, whose "
                "coefficient is no multiple of a vector; leave unit out, or set operation: add"
            )
        return self


class NullsSpec(SpecModel):
    """Draws of vectors that mean nothing, which steer a part of the grid as a control."""

    random: StrictInt = Field(
        0,
        ge=0,
        le=MOST_DRAWS,
        description="Number of draws of random directions, of the fitted vectors' norms",
        json_schema_extra=role("grid"),
    )
    shuffled: StrictInt = Field(
        0,
        ge=0,
        le=MOST_DRAWS,
        description="Number of draws of vectors fitted to shuffled labels; each is scored under "
        "its own labels",
        json_schema_extra=role("grid"),
    )
    layers: Layers | None = Field(
        None,
        description="Layers of the grid that they steer; the whole grid if left out",
        json_schema_extra=role("grid"),
    )
    coeffs: Coeffs | None = Field(
        None,
        description="Coefficients of the grid that they take; the whole grid if left out",
        json_schema_extra=role("grid"),
    )

    def num_draws(self) -> dict[Null, int]:
        """By null, those that are asked for."""
        draws: dict[Null, int] = {"random": self.random, "shuffled": self.shuffled}
        return {null: num for null, num in draws.items() if num}


def _draws_of_names(value: Any) -> Any:
    """A plain list of nulls means one draw of each."""
    if not isinstance(value, list | tuple):
        return value
    for name in distinct(tuple(value)):
        if name not in NULLS:
            raise ValueError(f"must be one of {', '.join(NULLS)}, got {name!r}")
    return dict.fromkeys(value, 1)


Nulls = Annotated[
    NullsSpec, BeforeValidator(_draws_of_names, json_schema_input_type=NullsSpec | list[Null])
]


def not_in_the_grid(name: str, outside: Sequence[str]) -> str:
    """Why nulls cannot have values of an axis that the grid lacks."""
    return (
        f"nulls.{name}: {', '.join(outside)} is not in steering.{name}; nulls are compared with "
        "the fitted vectors at the same layer and coefficient"
    )


Models = Annotated[dict[ModelName, ModelEntry], Field(min_length=1, json_schema_extra=role("grid"))]
NullsEntry = Annotated[
    Nulls,
    Field(
        description="Also steer with vectors that mean nothing, as a control. A plain list, such "
        "as [random], means one draw of each"
    ),
]
Measures = Annotated[
    tuple[Measure, ...],
    AfterValidator(distinct),
    Field(
        description="What else to measure of steered rows, at a price. kl: how far the next-token "
        "distribution moves from the unsteered one; the unsteered pass then runs all blocks, and "
        "the head multiplies twice as much",
        # Absent unless set, so that records and digests of other sweeps stay what they were.
        exclude_if=lambda value: not value,
        json_schema_extra=role("identity"),
    ),
]
Output = Annotated[
    str,
    Field(
        min_length=1,
        description="Folder or s3://bucket/prefix",
        json_schema_extra=role("runtime"),
    ),
]


class ScoredDataSpec(SpecModel):
    """The examples to run. Each job declares these keys itself, in its own order."""

    if TYPE_CHECKING:
        seed: int


class ScoredSpec(JobSpec, ABC):
    """Base of the sweep files. Each job declares these keys itself, in its own order."""

    if TYPE_CHECKING:
        models: dict[str, ModelSpec]
        data: ScoredDataSpec
        vectors: VectorsSpec
        steering: SteeringSpec
        nulls: NullsSpec
        measures: tuple[Measure, ...]
        certificate: CertificateSpec
        side_effects: SideEffectsSpec
        prompts: dict[str, str]

    @model_validator(mode="after")
    def _held_out_beside_in_sample(self) -> Self:
        if self.vectors.held_out and (folds := self.resolved_protocol().folds) > 1:
            raise ValueError(
                f"vectors.held_out must be left out where folds is {folds}: those vectors are held "
                "out already"
            )
        return self

    @model_validator(mode="after")
    def _nulls_inside_the_grid(self) -> Self:
        grid: tuple[tuple[str, Collection[Any], Collection[Any] | None], ...] = (
            ("layers", self.steering.layers, self.nulls.layers),
            ("coeffs", self.steering.coeffs, self.nulls.coeffs),
        )
        for name, steered, of_nulls in grid:
            if name == "layers" and ALL_LAYERS in (steered, of_nulls):
                continue  # known once the models are (``resolve``)
            if outside := [str(value) for value in of_nulls or () if value not in steered]:
                raise ValueError(not_in_the_grid(name, outside))
        return self

    @model_validator(mode="after")
    def _side_effects_inside_the_grid(self) -> Self:
        check_cells(self.side_effects, self.steering.layers, self.steering.coeffs)
        return self

    @abstractmethod
    def preset(self) -> Protocol:
        """The protocol that keys which are left out follow."""

    def resolved_protocol(self) -> Protocol:
        """The protocol with the keys that the spec sets by itself."""
        preset = self.preset()
        return replace(
            preset,
            read=self.vectors.read or preset.read,
            apply=self.steering.apply or preset.apply,
            pooling=self.vectors.pooling or preset.pooling,
            positions=self.steering.positions or preset.positions,
            operation=self.steering.operation,
            folds=1 if self.vectors.file else self.vectors.folds or preset.folds,
        )
