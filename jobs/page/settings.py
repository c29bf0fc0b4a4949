"""What pages call the settings of a spec, for a reader who does not know its keys."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import yaml

from jobs.page.words import MINUS, coefficient
from steering_core.interventions import OPERATIONS

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


def steering_terms(steering: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Terms and texts about ``steering`` of a resolved spec: what is done, and where."""
    return [
        (
            "Steering",
            f"{OPERATIONS[steering.get('operation', 'add')].words}, at "
            f"{POSITIONS[steering['positions']]}, at {hook_point(steering['apply'])}",
        ),
    ]


def grid_terms(steering: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Terms and texts about the grid of ``steering``."""
    layers = ", ".join(map(str, steering["layers"]))
    coeffs = ", ".join(coefficient(float(c)) for c in steering["coeffs"])
    unit = " times the stream's mean norm" if steering.get("unit") == "stream" else ""
    return [
        ("Layers L", f"{layers} (1 is the stream after the first block)"),
        ("Coefficients", f"{coeffs}{unit}"),
    ]


def hook_point(site: str) -> str:
    """A site of the block below layer L, in words."""
    return f"blocks.{{L{MINUS}1}}.{site}, {SITES[site]}"


def as_yaml(spec: Mapping[str, Any]) -> str:
    """A resolved spec as a sweep file, with coefficients as they were written."""
    coeffs = [_plain(Decimal(c)) for c in spec["steering"]["coeffs"]]
    document = {**spec, "steering": {**spec["steering"], "coeffs": coeffs}}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _plain(value: Decimal) -> int | float | str:
    """A number that YAML writes with the digits of the decimal, or else its text."""
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else str(value)
