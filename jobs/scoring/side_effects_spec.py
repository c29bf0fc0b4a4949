"""What a sweep file says of side effects: data sets to measure, prompts to compare with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool

from jobs.datasets.spec import ExamplesSpec
from jobs.grid import ALL_LAYERS, Coeffs, Layers
from jobs.spec import SpecModel, checked_name, role
from steering_core.datasets.checking import checked_prefix
from steering_core.datasets.registry import DATASETS

OWN = "data"
"""The name of the sweep's own data among what is measured; no set may have it."""


def _name(name: str) -> str:
    if name == OWN:
        raise ValueError(f"{OWN} names the sweep's own data; choose another name")
    return checked_name(name)


Name = Annotated[str, AfterValidator(_name)]
"""Of a data set or a prompt: a part of storage keys, and a label on the page."""


class CellsSpec(SpecModel):
    """Cells of the grid in which other data is measured."""

    layers: Layers | None = Field(
        None,
        description="Layers of the grid; all of them if left out",
        json_schema_extra=role("grid"),
    )
    coeffs: Coeffs | None = Field(
        None,
        description="Coefficients of the grid; all of them if left out",
        json_schema_extra=role("grid"),
    )


class SideEffectsSpec(SpecModel):
    """Data sets that are scored under the sweep's vectors, by name.

    A set whose name is that of a format has this format unless it says another.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Name, ExamplesSpec] = Field(init=False)

    cells: CellsSpec = CellsSpec()  # type: ignore[call-arg]
    transfer: StrictBool = Field(
        False,
        description="Also steer each group of the sweep's own data with the vectors of every other "
        "group",
        json_schema_extra=role("grid"),
    )

    @property
    def sets(self) -> Mapping[str, ExamplesSpec]:
        """The data sets by name, each with its format."""
        return {
            name: found if found.format is not None else found.model_copy(update=_format(name))
            for name, found in (self.model_extra or {}).items()
        }

    @property
    def files(self) -> list[tuple[str, str]]:
        """(key, path) of the files that it names, which stay where they are."""
        return [
            (f"side_effects.{name}.path", of_set.path)
            for name, of_set in self.sets.items()
            if of_set.is_file
        ]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is measured."""
        return not (self.model_extra or self.transfer)


def _format(name: str) -> dict[str, str]:
    return {"format": name} if name in DATASETS else {}


def _without_prompts(value: Any) -> Any:
    return {} if value is None else value


SideEffects = Annotated[
    SideEffectsSpec,
    Field(
        description="What else to measure under the sweep's vectors: data sets by name, each with "
        "the keys of `data` of job choices",
        # Absent unless set, so that records and digests of other sweeps stay what they were.
        exclude_if=lambda value: value.is_empty,
    ),
]

Prompts = Annotated[
    dict[Name, Annotated[str, AfterValidator(checked_prefix)]],
    BeforeValidator(_without_prompts),
    Field(
        description="Texts by name that are put before every prompt instead of steering, as a "
        "baseline: {fair: 'Treat all people alike. '}",
        exclude_if=lambda value: not value,
        json_schema_extra=role("grid"),
    ),
]


def check_cells(
    side_effects: SideEffectsSpec, layers: Collection[Any], coeffs: Collection[Any]
) -> None:
    """Hold the cells of side effects against a sweep file's grid.

    Raises:
        ValueError: the grid lacks a value.
    """
    cells = side_effects.cells
    if ALL_LAYERS in (layers, cells.layers):  # known once the models are
        cells, layers = cells.model_copy(update={"layers": None}), ()
    for sentence in outside(cells, layers, coeffs):
        raise ValueError(sentence)


def outside(cells: CellsSpec, layers: Collection[int], coeffs: Collection[Any]) -> list[str]:
    """A sentence for each axis of which the cells have values that the grid lacks."""
    grid = (("layers", cells.layers, layers), ("coeffs", cells.coeffs, coeffs))
    return [
        f"side_effects.cells.{name}: {', '.join(map(str, lacking))} is not in steering.{name}; "
        "side effects are measured in cells of the grid"
        for name, wanted, there in grid
        if (lacking := [value for value in wanted or () if value not in there])
    ]
