"""Made-up rows of side effects: each metric is a column of numbers that a test chooses.

Shapes: N examples, C columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jobs.side_effects.rows import OWN, Kind, Measured, MeasuredCell
from steering_core.datasets.base import Candidate, ChoiceExample, Metric, ScoredChoices

AXES = ("topic",)
Values = np.ndarray
CellOf = tuple[int | None, float | None, float | None, Values]
"""Layer, coefficient, dose, values [N, C]."""


def column(key: str, at: int, **about: Any) -> Metric:
    """The mean of a column."""
    return Metric(key, key, f"mean of column {at}", "test", lambda s: s.sums[:, [at]], **about)


def share(key: str, at: int) -> Metric:
    """The share of examples whose number in a column is above 0; one of a label restates others."""
    restates = key.startswith("share_")
    return Metric(
        key, key, "", "test", lambda s: (s.sums[:, [at]] > 0).astype(float), restates=restates
    )


def quotient(key: str, above: int, below: int) -> Metric:
    """The mean of a column over that of another."""
    return Metric(
        key, key, "", "test", lambda s: s.sums[:, [above, below]], lambda m: m[..., 0] / m[..., 1]
    )


def scored(
    values: Values, cluster: Sequence[int] | None = None, *, has_parts: bool = True
) -> ScoredChoices:
    """Examples in clusters; with parts, their group is ``half``: ``first`` or ``second``."""
    num, num_columns = values.shape
    candidates = tuple(Candidate(f" {c}", str(c)) for c in range(max(2, num_columns)))
    padded = np.hstack([values, np.zeros((num, len(candidates) - num_columns))])
    examples = [
        ChoiceExample(
            f"e{n}",
            "",
            candidates,
            (("half", "first" if n < num // 2 else "second"),) if has_parts else (),
            "" if cluster is None else f"c{cluster[n]}",
        )
        for n in range(num)
    ]
    return ScoredChoices(examples, padded, np.ones(padded.shape, np.int64))


def measured(
    before: Values,
    cells: Iterable[CellOf],
    metrics: Sequence[Metric],
    *,
    data: str = OWN,
    kind: Kind = "own",
    topic: str = "work",
    cluster: Sequence[int] | None = None,
    has_parts: bool = True,
    **about: Any,
) -> Measured:
    """Rows of one data set; ``about``: other attributes of ``Measured``."""
    target = metrics[0].key if data == OWN and kind == "own" else ""
    known = {"model": "base", "prompt": "", "vectors": "in_sample", "group": "", "target": target}
    baseline = scored(before, cluster, has_parts=has_parts)
    return Measured(
        place={"topic": topic},
        set=data,
        kind=kind,
        metrics=metrics,
        baseline=baseline,
        cells=(
            MeasuredCell(
                layer, coeff, dose, ScoredChoices(
                    baseline.examples, scored(after, cluster).sums, baseline.num_tokens
                )
            )
            for layer, coeff, dose, after in cells
        ),
        **{"examples": data if kind != "own" else f"{data}/{topic}"} | known | about,
    )  # fmt: skip
