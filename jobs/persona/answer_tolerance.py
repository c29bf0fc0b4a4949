"""How far a token of a stored answer may be from what the plain forward pass chooses."""

from __future__ import annotations

from typing import Literal

_BY_DTYPE = {"float32": 1e-4}
_HALF_PRECISION = 0.05


def answer_tolerance(dtype: str, given: float | Literal["auto"] = "auto") -> float:
    """The largest change of a probability that counts as rounding.

    Args:
        given: ``certificate.tolerance`` of the spec.
    """
    return _BY_DTYPE.get(dtype, _HALF_PRECISION) if given == "auto" else given
