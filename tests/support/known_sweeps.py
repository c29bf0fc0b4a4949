"""Summaries of made-up rows whose truth is known: what steering did to each candidate's score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from jobs.stereoset.estimates import model_estimates
from jobs.stereoset.scored_rows import ScoredRows, SteeredRows
from jobs.stereoset.summary import Summary
from jobs.stereoset.summary_keys import POOLED, SummaryKey
from jobs.stereoset.summary_sums import GroupSums
from tests.support.pages import summary_of

TERMS = {"gender": (10, 24), "race": (36, 27)}
"""Target terms of each bias type, and examples of each."""

Effect = Callable[[float], Sequence[float]]
"""What a coefficient adds to the scores of stereotype, anti-stereotype and unrelated."""


def known_sweep(
    effect: Effect,
    *,
    coeffs: Sequence[float] = (20.0,),
    noise: float = 0.3,
    vectors: str = "in_sample",
    has_intent: bool = True,
    model: str = "base",
) -> Summary:
    """The summary of one model, one split and layer 3, with noise around the effect."""
    rng = np.random.default_rng(0)
    groups, planned = [], Counter[SummaryKey]()
    for bias_type, (num_terms, of_each) in TERMS.items():
        num = num_terms * of_each
        before = rng.normal([0.0, -0.3, -1.0], 1.0, (num, 3))
        rows = ScoredRows(
            pa.array([f"{bias_type}-{n}" for n in range(num)]),
            np.repeat([f"{bias_type}-{k}" for k in range(num_terms)], of_each),
            before,
            before.argmax(axis=1),
        )
        scores = np.stack(
            [before + np.asarray(effect(c)) + rng.normal(0, noise, (num, 3)) for c in coeffs]
        )
        cells = tuple((3, c) for c in coeffs)
        steered = SteeredRows(rows, cells, scores, scores.argmax(axis=2))
        groups.append(GroupSums.of_rows("inter", bias_type, [rows], [steered]))
        for name, c in ((name, c) for name in (bias_type, POOLED) for c in coeffs):
            planned[SummaryKey("inter", name, 3, c)] += 1
    found = model_estimates(groups, planned, vectors=vectors, has_direction=has_intent)
    tables = {
        name: [{"model": model, **row} for row in getattr(found, name)]
        for name in ("cells", "pooled", "findings", "headline")
    }
    return summary_of(**tables, vectors=vectors, has_intent=has_intent)
