"""What was meant against all that was not: the table ``fidelity``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.estimates.cells import defined
from jobs.side_effects.sums import DataPart, Measure, SteeredData, Steering
from steering_core.stats.fidelity import Changes, Ends, Fidelity, fidelity, pareto_front

Data = Mapping[DataPart, SteeredData]
Place = tuple[str, tuple[str, ...]]
"""A model, and the values of the axes."""


@dataclass(frozen=True)
class Target:
    """What steering is meant to raise at a place, and what else counts there.

    Attributes:
        others: in the matrix, measured under vectors and, if there are any, prompts alike.
    """

    measure: Measure
    others: tuple[Measure, ...]

    def fidelity(self, steering: Steering, data: Data) -> Fidelity | None:
        """Of one steering; None if the target is not measured or nothing is meant.

        Without ``unintended`` (NaN) if a data set of the others is not measured: less is measured
        then, which is not less that moves.
        """
        if self.measure.data not in data or not steering.sign:
            return None
        others = [measure for measure in self.others if measure.data in data]
        changes = [data[m.data].standardized(m.metric) for m in (self.measure, *others)]
        found = fidelity(Changes.of(changes), [m.data for m in others], steering.sign)
        if len(others) == len(self.others):
            return found
        nothing = Ends(np.nan, np.nan, np.nan)
        return Fidelity(found.intended, nothing, nothing, found.num_measures)


def targets_of(cells: Mapping[Steering, Data], measures: Sequence[Measure]) -> dict[Place, Target]:
    """The target of each place that has one.

    Args:
        measures: of the matrix.
    """
    found: dict[Place, Target] = {}
    for steering, of_steering in cells.items():
        place = (steering.model, steering.place)
        for data, steered in of_steering.items():
            key = steered.baseline.target
            if key and place not in found:
                found[place] = target_at(place, Measure(*data, key), cells, measures)
    return found


def target_at(
    place: Place, measure: Measure, cells: Mapping[Steering, Data], measures: Sequence[Measure]
) -> Target:
    """What counts at a place if one measure is meant to move.

    That is data that some vector and, if there are prompts, some prompt was measured on, so that
    vectors and prompts are compared by the same measures.
    """
    by_prompt: dict[bool, set[DataPart]] = {}
    for steering, data in cells.items():
        if (steering.model, steering.place) == place and steering.sign:
            by_prompt.setdefault(bool(steering.prompt), set()).update(data)
    there = set.intersection(*by_prompt.values()) if by_prompt else set()
    return Target(measure, tuple(m for m in measures if m.data in there and m != measure))


def fidelities(
    cells: Mapping[Steering, Data], targets: Mapping[Place, Target]
) -> dict[Steering, Fidelity]:
    """Of each steering that has a target and means something."""
    found = {}
    for steering, data in cells.items():
        target = targets.get((steering.model, steering.place))
        of_steering = target.fidelity(steering, data) if target else None
        if of_steering is not None:
            found[steering] = of_steering
    return found


def rows(
    found: Mapping[Steering, Fidelity],
    cells: Mapping[Steering, Data],
    targets: Mapping[Place, Target],
    axes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Rows of the table ``fidelity``."""
    best = _best(found)
    for steering, of_steering in found.items():
        target = targets[steering.model, steering.place]
        yield {
            **steering.columns(axes),
            "dose": cells[steering][target.measure.data].dose,
            **columns_of_ends("intended", of_steering.intended),
            **columns_of_ends("unintended", of_steering.unintended),
            **columns_of_ends("fidelity", of_steering.fidelity),
            "num_measures": of_steering.num_measures,
            "is_best": steering in best,
        }


def columns_of_ends(name: str, ends: Ends) -> dict[str, float | None]:
    """A number and its interval as columns; what is undefined is None."""
    numbers = (ends.value, ends.low, ends.high)
    return {
        f"{name}{end}": defined(number)
        for end, number in zip(("", "_low", "_high"), numbers, strict=True)
    }


def _best(found: Mapping[Steering, Fidelity]) -> set[Steering]:
    places: dict[Place, list[Steering]] = {}
    for steering in found:
        places.setdefault((steering.model, steering.place), []).append(steering)
    best = set()
    for at in places.values():
        intended, unintended = (
            np.asarray([getattr(found[steering], name).value for steering in at])
            for name in ("intended", "unintended")
        )
        front = pareto_front(intended, unintended)
        best |= {steering for steering, is_best in zip(at, front, strict=True) if is_best}
    return best
