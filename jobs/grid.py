"""The axes of a steered grid as a sweep file writes them: layers and coefficients."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt

from jobs.spec import AtLeastOne, Coeff, Spec, distinct
from steersweep.errors import UserError

ALL_LAYERS: tuple[int, ...] = ()
"""What ``layers: all`` is until the models are known; an empty list in a file is refused."""

_RANGE = re.compile(r"\s*(\d{1,6})\s*-\s*(\d{1,6})\s*(?::\s*(\d{1,6})\s*)?")
_MOST_LAYERS = 10_000
_FORMS = "must be a layer number, a range such as 1-25 or 1-25:2, a list of these, or all"


def _layers(value: Any) -> Any:
    """Numbers for every form; what is no form is left to the check of the numbers."""
    if value == "all":
        return ALL_LAYERS
    if isinstance(value, str):
        return tuple(_of_range(value))
    if isinstance(value, bool) or not isinstance(value, int | list | tuple):
        raise ValueError(_FORMS)
    if isinstance(value, int):
        return (value,)
    if isinstance(value, list) and not value:
        raise ValueError("needs at least 1 entry")
    return tuple(layer for entry in value for layer in _of_entry(entry))


def _of_entry(entry: Any) -> Iterator[Any]:
    if not isinstance(entry, str) or ("-" not in entry and entry != "all"):
        yield entry  # no range: the check of the numbers names its place in the list
        return
    try:
        yield from _of_range(entry)
    except ValueError as error:  # the whole list is not shown
        raise ValueError(f"{error}, got {entry!r}") from None


def _of_range(text: str) -> range:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(_FORMS)
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if last < first:
        raise ValueError("must be a range that goes up, such as 1-25")
    if step == 0:
        raise ValueError("must be a range with a step of at least 1")
    layers = range(first, last + 1, step)
    if len(layers) > _MOST_LAYERS:
        raise ValueError(f"must be a range of at most {_MOST_LAYERS:,} layers")
    return layers


def _one_or_several(value: Any) -> Any:
    """A list, also of a single value."""
    return value if value is None or isinstance(value, list | tuple | Mapping) else (value,)


_RangeText = Annotated[str, Field(pattern=r"^\s*\d+\s*-\s*\d+\s*(:\s*\d+\s*)?$")]
_LayersInput = (
    Literal["all"]
    | AtLeastOne
    | _RangeText
    | Annotated[list[AtLeastOne | _RangeText], Field(min_length=1)]
)

Layers = Annotated[
    tuple[StrictInt, ...],
    BeforeValidator(_layers, json_schema_input_type=_LayersInput),
    AfterValidator(distinct),
]
"""``13``, ``"1-25:2"`` (from 1 to 25 in steps of 2), a list of these, or ``all``."""

Coeffs = Annotated[
    tuple[Coeff, ...],
    Field(min_length=1),
    BeforeValidator(
        _one_or_several,
        json_schema_input_type=Coeff | Annotated[list[Coeff], Field(min_length=1)],
    ),
    AfterValidator(distinct),
]
"""One coefficient, or a list of them."""


def with_all_layers(spec: Spec, depths: Mapping[str, int]) -> Spec:
    """The spec with the numbers of every layer in place of ``layers: all``.

    Args:
        spec: a job's spec; one that lists its layers is returned as it is.
        depths: number of blocks of each model, by its name in the spec.

    Raises:
        UserError: ``all`` of models of different depths, which have no grid in common.
    """
    steering: Any = spec.steering  # type: ignore[attr-defined]
    if steering.layers != ALL_LAYERS:
        return spec
    if len(set(depths.values())) > 1:
        each = ", ".join(f"{name} has {depth}" for name, depth in depths.items())
        raise UserError(
            f"steering.layers: all needs models with the same number of layers, but {each}; give "
            f"a range that every model has, such as 1-{min(depths.values())}, or make one sweep "
            "for each model"
        )
    layers = tuple(range(1, max(depths.values()) + 1))
    return spec.model_copy(update={"steering": steering.model_copy(update={"layers": layers})})
