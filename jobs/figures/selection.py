"""Which of many values are drawn: a figure holds a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Value = TypeVar("Value")


def spread(values: Sequence[Value], most: int) -> list[Value]:
    """At most ``most`` of the values, evenly spread, the first and the last among them.

    One alone is the last.
    """
    if len(values) <= most:
        return list(values)
    if most < 2:
        return [values[-1]][:most]
    return [values[round(at)] for at in np.linspace(0, len(values) - 1, most)]
