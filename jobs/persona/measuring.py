"""Side effects of persona vectors: a scored sweep over data sets, which has no data of its own.

Planning, ids, rows and checks are those of the jobs that score candidates (``jobs.scoring``); a
group of that sweep is a trait. It is steered as answers are: the vector is added where a block
leaves the stream, at every position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from jobs.datasets.load import digest_of
from jobs.persona.spec import PersonaSpec
from jobs.scoring.choice_rows import ChoiceRows
from jobs.scoring.groups import Group
from jobs.scoring.measured import protocol_of_sets, read_sets
from jobs.scoring.resolve import check_sets, side_effects_in
from jobs.scoring.side_effects_spec import SideEffects, SideEffectsSpec
from jobs.scoring.spec import (
    Measures,
    Models,
    NullsEntry,
    NullsSpec,
    ScoredSpec,
    SteeringSpec,
    VectorsSpec,
)
from jobs.scoring.sweep import ScoredSweep, SweepModel
from jobs.spec import CertificateSpec, ComputeSpec, StorageOptions
from steering_core.datasets.base import ChoiceExample
from steering_core.models import load_tokenizer
from steering_core.protocol import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from jobs.persona.resolve import PersonaModel

AXES = ("trait",)

PROTOCOL = protocol_of_sets(PROTOCOLS["aligned"])
"""How data sets are scored under persona vectors."""


class MeasuringSpec(ScoredSpec):
    """The keys of a persona sweep file that scoring data sets depends on."""

    job: Literal["persona"]
    models: Models
    vectors: VectorsSpec = VectorsSpec()  # type: ignore[call-arg]
    steering: SteeringSpec
    nulls: NullsEntry = NullsSpec()  # type: ignore[call-arg]
    measures: Measures = ()
    side_effects: SideEffects = SideEffectsSpec()  # type: ignore[call-arg]
    prompts: dict[str, str] = Field({})
    compute: ComputeSpec = ComputeSpec()  # type: ignore[call-arg]
    certificate: CertificateSpec = CertificateSpec()  # type: ignore[call-arg]
    storage: StorageOptions = StorageOptions()  # type: ignore[call-arg]
    output: str

    def preset(self) -> Protocol:
        """See ``ScoredSpec``."""
        return PROTOCOL


@dataclass(frozen=True)
class MeasuringSweep(ScoredSweep[MeasuringSpec, ChoiceExample]):
    """Data sets under persona vectors; its groups have no examples."""

    axes = AXES
    cluster = ""

    @property
    def contrast(self) -> None:
        """Vectors come from elsewhere."""

    def examples_digest(self, examples: Sequence[ChoiceExample]) -> str:
        """See ``ScoredSweep``."""
        return digest_of(examples)

    def data_identity(self) -> dict[str, Any]:
        """See ``ScoredSweep``: there is no data but that of the sets."""
        return {}

    def num_folds(self, key: tuple[str, ...], *, held_out: bool = False) -> int:  # noqa: ARG002
        """See ``ScoredSweep``: other data is steered with the vector of all answers."""
        return 1


def group_of(model: str, trait: str) -> Group:
    """A trait's vectors, as rows of data sets name them."""
    return Group(model, (trait,), AXES)


def measuring_sweep(
    spec: PersonaSpec, device: str, models: Mapping[str, PersonaModel]
) -> MeasuringSweep | None:
    """The data sets of a persona sweep, read and checked; None if it has none.

    Args:
        spec: with the numbers of its layers.

    Raises:
        UserError: a set cannot be read, or a model cannot take it; cells outside the grid.
    """
    of_sets = _measuring_spec(spec)
    if of_sets.side_effects.is_empty:
        return None
    rows = ChoiceRows(())
    sweep = MeasuringSweep(
        of_sets,
        of_sets.resolved_protocol(),
        device,
        "",
        {name: _sweep_model(model, rows) for name, model in models.items()},
        {(trait,): ((), ()) for trait in spec.traits},
        rows,
        measured=read_sets(of_sets.side_effects.sets),
    )
    check_sets(sweep)
    return sweep


def _measuring_spec(spec: PersonaSpec) -> MeasuringSpec:
    grid = spec.steering
    side_effects = side_effects_in(spec.side_effects, grid.layers, grid.coeffs)
    if side_effects.cells.coeffs is None:
        # Answers need coefficient 0 as a baseline; data sets are scored without steering anyway.
        coeffs = tuple(coeff for coeff in grid.coeffs if coeff)
        cells = side_effects.cells.model_copy(update={"coeffs": coeffs})
        side_effects = side_effects.model_copy(update={"cells": cells})
    return MeasuringSpec(
        job=spec.job,
        models=spec.models,
        steering=SteeringSpec(layers=grid.layers, coeffs=grid.coeffs),  # type: ignore[call-arg]
        side_effects=side_effects,
        # Replicas of this job do not use the engine's kernels, so a plan must not time them.
        compute=spec.compute.model_copy(update={"accelerate": "off"}),
        certificate=spec.certificate,
        storage=spec.storage,
        output=spec.output,
    )


def _sweep_model(model: PersonaModel, rows: ChoiceRows) -> SweepModel:
    encoder = rows.encoder(load_tokenizer(model.source), PROTOCOL, model.source.path)
    return SweepModel(model.name, model.source, model.facts, model.dtype, encoder)
