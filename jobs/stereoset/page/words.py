"""What the page calls the settings of a spec, for a reader who does not know its keys."""

from __future__ import annotations

from jobs.stereoset.summary_keys import POOLED

ALL = {"split": "all splits", "bias_type": "all bias types", "layer": "all layers"}
SITES = {
    "resid_pre": "the residual stream as it enters the block",
    "attn_out": "what the block's attention adds to the residual stream",
    "mlp_out": "what the block's MLP adds to the residual stream",
    "resid_post": "the residual stream as it leaves the block",
}
POOLING = {
    "all_positions": "all positions of the padded row: question, candidate and padding",
    "candidate": "the candidate's own tokens",
    "candidate_last": "the candidate's last token",
}
POSITIONS = {
    "all": "every position",
    "question": "the question's positions",
    "candidate": "the candidate's positions",
    "last": "the question's last token",
}
SCORING = {
    "as_published": "the candidate encoded alone with BOS, each token read one position late, "
    "as the paper's notebook does",
    "aligned": "the candidate in its context, each token read at the position that predicts it",
}


def name_of(axis: str, value: str | int | None) -> str:
    """A value of ``split``, ``bias_type`` or ``layer`` as the page shows it."""
    return ALL[axis] if value in (POOLED, None) else str(value)
