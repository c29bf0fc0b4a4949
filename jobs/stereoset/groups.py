"""Groups of a StereoSet sweep: the examples of a model, a split and a bias type."""

from __future__ import annotations

from jobs.scoring.groups import Group

AXES = ("split", "bias_type")


def group_of(model: str, split: str, bias_type: str) -> Group:
    """The group of a model, a split and a bias type."""
    return Group(model, (split, bias_type), AXES)


def place_of(group: Group) -> tuple[str, str]:
    """The split and the bias type of a group."""
    split, bias_type = group.key
    return split, bias_type
