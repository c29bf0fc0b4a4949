"""What the page calls the settings of a spec, for a reader who does not know its keys."""

from __future__ import annotations

from jobs.stereoset.summary_keys import POOLED

ALL = {"split": "all splits", "bias_type": "all bias types", "layer": "all layers"}
SCORING = {
    "as_published": "the candidate encoded alone with BOS, each token read one position late, "
    "as the paper's notebook does",
    "aligned": "the candidate in its context, each token read at the position that predicts it",
}


def name_of(axis: str, value: str | int | None) -> str:
    """A value of ``split``, ``bias_type`` or ``layer`` as the page shows it."""
    return ALL[axis] if value in (POOLED, None) else str(value)
