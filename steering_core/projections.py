"""Formulas of persona vectors: projections on a vector, angles between vectors.

Source: Chen et al. 2025, "Persona Vectors".

Shapes: T vectors, D width.
"""

from __future__ import annotations

import numpy as np

from steersweep.errors import UserError


def projections(states: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """``state . v / |v|`` [...] float64 of states [..., D], for instance mean response states.

    Raises:
        UserError: a vector without a direction.
    """
    found: np.ndarray = np.asarray(states, np.float64) @ _unit(np.asarray(vector, np.float64))
    return found


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of the angle between any two of the vectors [T, D], [T, T] float64.

    Raises:
        UserError: a vector without a direction.
    """
    unit_TD = _unit(np.asarray(vectors, np.float64))
    found: np.ndarray = np.clip(unit_TD @ unit_TD.T, -1.0, 1.0)
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise UserError("a vector of zeros, or with entries that are not finite, has no direction")
    unit: np.ndarray = vectors / norms
    return unit
