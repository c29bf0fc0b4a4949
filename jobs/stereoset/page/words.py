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
METHODS = {
    "mean_difference": "mean over examples of (pooled anti-stereotype minus pooled stereotype)",
    "pca": "first principal direction of (pooled anti-stereotype minus pooled stereotype)",
    "logistic": "weight of a logistic probe between anti-stereotype and stereotype",
    "whitened": "mean difference times the inverse within-class covariance",
}
POOLING = {
    "all_positions": "all positions of the padded row: question, candidate and padding",
    "candidate": "the candidate's own tokens",
}
OPERATIONS = {
    "add": "the coefficient times the vector is added",
    "project_out": "the coefficient times the projection on the vector is subtracted",
    "cap_above": "the projection on the vector is limited to at most the coefficient",
    "cap_below": "the projection on the vector is raised to at least the coefficient",
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
