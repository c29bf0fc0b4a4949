"""The dose of each row of a summary: how hard its cell was pushed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from jobs.stereoset.estimates import Row
from jobs.stereoset.summary_keys import POOLED
from steering_core.vectors import SteeringVectors


def add_doses(
    cells: Sequence[Row],
    pooled: Sequence[Row],
    vectors: Mapping[tuple[str, str], SteeringVectors],
) -> None:
    """Add ``dose`` to one model's rows; None where the stream was not measured.

    A pooled row has the mean over its examples, those of each layer that is pooled.

    Args:
        vectors: those that steered, by split and bias type.
    """
    parts: dict[tuple[str, str, int | None, float], list[tuple[float, int]]] = defaultdict(list)
    for row in cells:
        of_group = vectors.get((row["split"], row["bias_type"]))
        dose = None if of_group is None else of_group.dose(row["layer"], row["coeff"])
        row["dose"] = dose
        part = np.nan if dose is None else dose, row["num_examples"]
        pools = product(
            (row["split"], POOLED), (row["bias_type"], POOLED), (row["layer"], None), [row["coeff"]]
        )
        for key in pools:
            parts[key].append(part)
    for row in pooled:
        found = parts[row["split"], row["bias_type"], row["layer"], row["coeff"]]
        doses, sizes = zip(*found, strict=True)
        # From the first one on, so that equal doses have that very dose as their mean.
        mean = doses[0] + float(np.average(np.asarray(doses) - doses[0], weights=sizes))
        row["dose"] = None if np.isnan(mean) else mean
