"""Parts of a data set, by the groups of its examples."""

from __future__ import annotations

from collections import Counter

import numpy as np

from steering_core.datasets.base import ScoredChoices

MOST_GROUP_VALUES = 50
"""A key with more values does not split results: it tells examples apart, not groups."""


def groups_of(scored: ScoredChoices) -> dict[tuple[str, str], np.ndarray]:
    """[N] bool examples of each (key, value) of their groups, for keys that split them."""
    values: dict[str, Counter[str]] = {}
    for example in scored.examples:
        for key, value in example.group:
            values.setdefault(key, Counter())[value] += 1
    return {
        (key, value): scored.in_group(key, value)
        for key, of_key in values.items()
        if 1 < len(of_key) <= MOST_GROUP_VALUES
        for value in sorted(of_key)
    }
