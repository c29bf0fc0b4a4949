"""Cosines between vectors."""

from __future__ import annotations

import numpy as np


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of each two rows of ``vectors`` [N, D]: [N, N] float64, NaN where a row is zero."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = np.divide(wide, norms, where=norms > 0, out=np.full_like(wide, np.nan))
    return np.asarray(unit @ unit.T)
