"""Summaries of persona sweeps with chosen numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from jobs.persona.summary import PersonaSummary

COEFFS = (-3.0, 0.0, 5.0)


def summary_of(traits: tuple[str, ...] = ("kind", "sly"), model: str = "chat") -> PersonaSummary:
    rng = np.random.default_rng(0)
    steered = [
        {"model": model, "trait": trait, "layer": layer, "coeff": coeff, "positions": "response",
         "trait_score": 50 + 5 * coeff + layer, "trait_score_low": 40.0, "trait_score_high": 80.0,
         "coherence": 90.0 if coeff < 5 else 30.0, "coherence_low": 20.0, "coherence_high": 95.0,
         **_change(5 * coeff if coeff else None)}
        for trait, layer, coeff in product(traits, (2, 3), COEFFS)
    ]  # fmt: skip
    cells = [("positive", None, None), ("negative", None, None)]
    cells += [("baseline" if c == 0 else "steered", la, c) for la in (2, 3) for c in COEFFS]
    projections = [
        {"model": model, "trait": trait, "condition": condition, "layer": layer, "coeff": coeff,
         "positions": None if coeff is None else "response", "mean": 1.25, "num_answers": 3,
         "vector": vector, "pooling": "response_mean", "at_layer": at,
         **dict(zip(("low", "lower", "median", "upper", "high"), np.sort(rng.normal(size=5)),
                    strict=True))}
        for trait, vector, at, (condition, layer, coeff) in product(traits, traits, (2, 3), cells)
    ]  # fmt: skip
    cosines = [
        {"model": model, "layer": layer, "trait": one, "other": two,
         "cosine": 1.0 if one == two else 0.25 * layer}
        for layer in (1, 2)
        for n, one in enumerate(traits)
        for two in traits[n:]
    ]  # fmt: skip
    return PersonaSummary(
        pd.DataFrame(), pd.DataFrame(steered), pd.DataFrame(projections), pd.DataFrame(cosines),
        pd.DataFrame(),
    )  # fmt: skip


def _change(value: float | None) -> dict[str, float | None]:
    """A change of both scores that is clear if it is there."""
    steps = {"": 0.0, "_low": -4.0, "_high": 4.0}
    found: dict[str, float | None] = {}
    for name in ("trait_score_change", "coherence_change"):
        found |= {f"{name}{end}": None if value is None else value + s for end, s in steps.items()}
        found[f"{name}_p"] = None if value is None else 0.01
    return found


def answers_of(
    contrast: Sequence[str],
    steered: Sequence[str],
    trait: str = "kind",
    model: str = "chat",
    ended_by: str = "eos",
) -> pd.DataFrame:
    """Answers to these questions, at each coefficient of layer 2 if steered; 0 has no layer."""
    asked = [("contrast", n, question, None) for n, question in enumerate(contrast)]
    asked += [
        ("steered", n, question, coeff) for n, question in enumerate(steered) for coeff in COEFFS
    ]
    return pd.DataFrame(
        [
            {"model": model, "trait": trait, "phase": phase, "question": question, "rollout": 0,
             "question_index": n, "coeff": coeff, "layer": 2 if coeff else None,
             "positions": "response" if coeff else None, "ended_by": ended_by,
             "answer": f"{question} at {coeff}", "answer_ids": [3, 4],
             "trait_score": 10.0, "trait_outcome": "scored",
             "coherence": 90.0, "coherence_outcome": "scored"}
            for phase, n, question, coeff in asked
        ]
    )  # fmt: skip
