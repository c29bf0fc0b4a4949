"""Which dose of a vector does what a prompt does: the table ``prompt_matches``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from jobs.estimates.cells import columns_of, defined
from jobs.side_effects.fidelity import Data, Place, Target
from jobs.side_effects.sums import Steering
from steering_core.stats.fidelity import Fidelity


class Point(NamedTuple):
    """A cell of a layer: its coefficient, dose, change of the target, and what else moves.

    ``dose`` and ``unintended`` are NaN if they are not known.
    """

    coeff: float
    dose: float
    change: float
    unintended: float


_UNSTEERED = Point(0.0, 0.0, 0.0, 0.0)


def rows(
    cells: Mapping[Steering, Data],
    targets: Mapping[Place, Target],
    found: Mapping[Steering, Fidelity],
    axes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """A row for each prompt, place and layer of vectors that are measured there.

    Args:
        found: the fidelity of each steering.
    """
    for prompt, data in cells.items():
        place = (prompt.model, prompt.place)
        target = targets.get(place)
        if not prompt.prompt or target is None or target.measure.data not in data:
            continue
        change = data[target.measure.data].change(target.measure.metric).change
        about = {key: value for key, value in prompt.columns(axes).items() if key != "coeff"}
        for layer, points in _layers(cells, place, target, found).items():
            match = first_reached(points, change.value)
            yield {
                **about,
                "layer": layer,
                **columns_of({"change": change}, ["change"]),
                "coeff": match and defined(match.coeff),
                "dose": match and defined(match.dose),
                "unintended_of_prompt": _unintended(found, prompt),
                "unintended_of_vector": match and defined(match.unintended),
            }


def first_reached(points: Sequence[Point], change: float) -> Point | None:
    """Where the cells of a layer first change the target that much, going out from no steering.

    Between neighboring coefficients everything is linear. Both signs are tried, and the smaller
    dose is taken, or the smaller coefficient if a dose is not known. None if no cell goes so far.
    """
    reached = []
    for sign in (1, -1):
        side = sorted((p for p in points if p.coeff * sign > 0), key=lambda p: abs(p.coeff))
        segments = pairwise([_UNSTEERED, *side])
        crossing = next((s for s in segments if _is_between(change, *s)), None)
        if crossing is not None:
            reached.append(_at(change, *crossing))
    knows_doses = all(np.isfinite(point.dose) for point in reached)
    size = (lambda p: abs(p.dose)) if knows_doses else (lambda p: abs(p.coeff))
    return min(reached, key=size, default=None)


def _is_between(change: float, near: Point, far: Point) -> bool:
    low, high = sorted((near.change, far.change))
    return low <= change <= high


def _at(change: float, near: Point, far: Point) -> Point:
    rise = far.change - near.change
    part = (change - near.change) / rise if rise else 0.0
    return Point(*(a + part * (b - a) if part else a for a, b in zip(near, far, strict=True)))


def _layers(
    cells: Mapping[Steering, Data],
    place: Place,
    target: Target,
    found: Mapping[Steering, Fidelity],
) -> dict[int, list[Point]]:
    """The cells of each layer of a place's vectors, of which the change of the target is known."""
    layers: dict[int, list[Point]] = {}
    for steering, data in cells.items():
        is_here = (steering.model, steering.place) == place and not steering.prompt
        if not is_here or target.measure.data not in data or not steering.sign:
            continue
        assert steering.layer is not None and steering.coeff is not None, "a vector has a cell"
        steered = data[target.measure.data]
        change = steered.change(target.measure.metric).change.value
        if np.isfinite(change):
            dose = np.nan if steered.dose is None else steered.dose
            other = found[steering].unintended.value
            point = Point(steering.coeff, dose, change, other)
            layers.setdefault(steering.layer, []).append(point)
    return dict(sorted(layers.items()))


def _unintended(found: Mapping[Steering, Fidelity], steering: Steering) -> float | None:
    return defined(found[steering].unintended.value) if steering in found else None
