"""What the page calls things, for a reader who does not know the names of columns."""

from __future__ import annotations

from jobs.stereoset.summary_keys import POOLED

LABELS = {"s": "stereotype", "a": "anti-stereotype", "u": "unrelated"}
INTENDED = "flow_s2a"
FLOWS = ("flow_s2a", "flow_u2a", "flow_s2u")
ARROW = "\N{RIGHTWARDS ARROW}"
PERCENT = "\N{NO-BREAK SPACE}%"

ALL = {"split": "all splits", "bias_type": "all bias types", "layer": "all layers"}
SITES = {
    "resid_pre": "the residual stream as it enters the block",
    "attn_out": "what the block's attention adds to the residual stream",
    "mlp_out": "what the block's MLP adds to the residual stream",
    "resid_post": "the residual stream as it leaves the block",
}
METHODS = {
    "mean_difference": "mean over examples of (pooled anti-stereotype minus pooled stereotype)",
    "pca": "first principal direction of these differences",
    "logistic": "weight of a logistic probe between the two",
    "whitened": "mean difference through the inverse within-class covariance",
}
POOLING = {
    "all_positions": "all positions of the padded row: question, candidate and pads",
    "candidate": "the candidate's own tokens",
}
OPERATIONS = {
    "add": "the coefficient times the vector is added",
    "project_out": "the coefficient times the projection on the vector is taken away",
    "cap_above": "the projection on the vector is held at most at the coefficient",
    "cap_below": "the projection on the vector is held at least at the coefficient",
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
    "aligned": "the candidate in its context, each token read where it is predicted",
}


def way(flow: str, *, is_reversed: bool) -> str:
    """A flow's direction in words: ``unrelated -> anti-stereotype``."""
    ends = flow.removeprefix("flow_").split("2")
    source, sink = reversed(ends) if is_reversed else ends
    return f"{LABELS[source]}\N{NO-BREAK SPACE}{ARROW} {LABELS[sink]}"


def name_of(axis: str, value: str | int | None) -> str:
    """A value of ``split``, ``bias_type`` or ``layer`` as the page shows it."""
    return ALL[axis] if value in (POOLED, None) else str(value)
