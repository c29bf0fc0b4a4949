"""Formulas of persona vectors: which pairs count, projections on a vector, angles between vectors.

Source: Chen et al. 2025, "Persona Vectors".

Shapes: N rows or pairs, T vectors, D width.
"""

from __future__ import annotations

import numpy as np

from steering_core.errors import InputError


def projections(states: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``state . v / |v|`` [...] float64 of states [..., D], for instance mean response states.

    Raises:
        InputError: a vector without a direction.
    """
    found: np.ndarray = np.asarray(states, np.float64) @ _unit(np.asarray(vector, np.float64))
    return found


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of the angle between any two of the vectors [T, D], [T, T] float64.

    Raises:
        InputError: a vector without a direction.
    """
    unit_TD = _unit(np.asarray(vectors, np.float64))
    found: np.ndarray = np.clip(unit_TD @ unit_TD.T, -1.0, 1.0)
    return found


def effective_pairs(
    positive: np.ndarray,
    negative: np.ndarray,
    positive_coherence: np.ndarray | None = None,
    negative_coherence: np.ndarray | None = None,
    *,
    threshold: float = 50.0,
    min_coherence: float = 50.0,
) -> np.ndarray:
    """Whether each pair of answers shows the trait where it should, and only there, [N] bool.

    ``positive >= threshold`` and ``negative < 100 - threshold``, both answers at least
    ``min_coherence`` coherent where that was judged. A score that is missing (NaN) counts as not
    shown, so its pair is never effective.

    Args:
        positive, negative: [N], the judge's trait score 0..100 of the answers that were asked to
            show the trait, and to avoid it.
    """
    effective: np.ndarray = (np.asarray(positive) >= threshold) & (
        np.asarray(negative) < 100 - threshold
    )
    for coherence in (positive_coherence, negative_coherence):
        if coherence is not None:
            effective &= np.asarray(coherence) >= min_coherence
    return effective


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise InputError("a vector of zeros, or with entries that are not finite, has no direction")
    unit: np.ndarray = vectors / norms
    return unit
