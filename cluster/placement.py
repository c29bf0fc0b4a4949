"""What a replica takes of a node, how many fit, and what to say where too few do.

Counted node by node, as a replica lives on one: two nodes of 2 GPUs have no room for one of 4.
Nothing here imports Ray or asks it; names of resources and labels are Ray's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steersweep.errors import UserError

_WHOLE_DEVICES = frozenset({"GPU", "TPU", "NPU", "HPU", "neuron_cores"})
"""Resources that come as devices: below 1 a share of a single one, above 1 whole ones."""
_ALMOST = 1e-9
"""0.1 does not divide 1.0 exactly."""
_A_LITTLE = 0.001
"""What Ray asks of the resource that stands for a kind of accelerator."""
_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(rf"([A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_VALUE}")
_SELECTOR = re.compile(rf"(!?)(?:({_VALUE})|in\(({_VALUE}(?:, ?{_VALUE})*)\))")


@dataclass(frozen=True)
class Share:
    """What one replica takes of one node."""

    cpus: float = 1.0
    gpus: float = 0.0
    "Below 1 several replicas share a GPU."
    accelerator_type: str | None = None
    "Ray's name of a kind of accelerator, such as 'H100' or 'TPU-V5LITEPOD'."
    resources: Mapping[str, float] = field(default_factory=dict)
    "Amounts of other resources by Ray's name."
    labels: Mapping[str, str] = field(default_factory=dict)
    "What the node's labels must be: 'eu', '!eu', 'in(eu, us)' or '!in(eu, us)'."

    @property
    def gpu_share(self) -> float:
        """GPUs of the replica, below 1 part of one; 1 if it asks for none."""
        return self.gpus if self.gpus > 0 else 1.0

    def amounts(self) -> dict[str, float]:
        """Every amount that is asked for, by Ray's name of the resource."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        if self.accelerator_type is not None:
            asked[f"accelerator_type:{self.accelerator_type}"] = _A_LITTLE
        return {name: amount for name, amount in asked.items() if amount > 0}

    def __str__(self) -> str:
        amounts = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        parts = [f"{amount:g} {_plural(name, amount)}" for name, amount in amounts.items()]
        if self.accelerator_type is not None:
            parts.append(f"an accelerator {self.accelerator_type}")
        parts += [f"a node with {key}={value}" for key, value in self.labels.items()]
        return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class Node:
    """What a node has, in use or not."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def check_label(name: str) -> str:
    """The name of a label; ValueError where Ray would not understand it."""
    if not _LABEL.fullmatch(name):
        raise ValueError("must be the name of a label, such as zone or ray.io/node-group")
    return name


def check_selector(selector: str) -> str:
    """The selector of a label; ValueError where Ray would not understand it."""
    if not _SELECTOR.fullmatch(selector):
        raise ValueError("must be value, !value, in(value, value) or !in(value, value)")
    return selector


def num_fitting(node: Node, share: Share) -> int:
    """How many replicas the whole node has room for."""
    if not _has_labels(node, share):
        return 0
    fits = [_fitting(name, node.resources.get(name, 0.0), n) for name, n in share.amounts().items()]
    # A replica that takes nothing would fit without end.
    return min(fits, default=1)


def num_replicas(
    requested: int | None, share: Share, nodes: Sequence[Node], num_tasks: int, *, may_grow: bool
) -> int:
    """How many replicas to run: `requested`, or for None what fits the nodes, at least 1.

    Never more than there are tasks. Raises `UserError` where the nodes have room for fewer
    than `requested`, or for none; with `may_grow`, only for none.
    """
    fits = sum(num_fitting(node, share) for node in nodes)
    if fits < (1 if may_grow else requested or 1):
        raise why_no_room(requested or 1, share, nodes)
    return max(1, min(fits if requested is None else requested, num_tasks))


def why_no_room(requested: int, share: Share, nodes: Sequence[Node]) -> UserError:
    """What is asked for and what is there, both in numbers, and what to do; one line."""
    fits = sum(num_fitting(node, share) for node in nodes)
    if fits > 0:
        return UserError(
            f"{requested} replicas with {share} each are asked for; the cluster of "
            f"{_count(nodes)} has room for {fits}; ask for fewer or smaller ones",
            cause="too_many_replicas",
        )
    matching = [node for node in nodes if _has_labels(node, share)]
    if not matching:
        return _no_such_label(share, nodes)
    among = "" if len(matching) == len(nodes) else f" of {len(nodes)}, those with the labels,"
    # The last ones are the rarest, and say most.
    for name, asked in reversed(share.amounts().items()):
        most = max(node.resources.get(name, 0.0) for node in matching)
        if _fitting(name, most, asked) < 1:
            return _too_little(name, asked, most, f"{_count(matching)}{among}", matching)
    return UserError(
        f"a replica asks for {share}; some node has each of these, but none of the "
        f"{_count(matching)}{among} of the cluster has all of them; ask for less"
    )


def _too_little(
    name: str, asked: float, most: float, among: str, nodes: Sequence[Node]
) -> UserError:
    prefix, _, kind = name.partition(":")
    if prefix == "accelerator_type":
        kinds = sorted({k.partition(":")[2] for n in nodes for k in n.resources if _is_kind(k)})
        there = f"have {', '.join(kinds)}" if kinds else "have none that Ray knows"
        return UserError(
            f"a replica asks for an accelerator {kind}; the {among} of the cluster {there}; use a "
            "kind that the cluster has",
            cause="no_such_accelerator",
        )
    causes = {"CPU": "too_few_cpus", "GPU": "too_few_gpus"}
    return UserError(
        f"a replica asks for {asked:g} {_plural(name, asked)}; the largest node has "
        f"{most:g} ({among} in the cluster); ask for less, or add such a node",
        cause=causes.get(name, "too_little_of_resource"),
        name=name,
    )


def _no_such_label(share: Share, nodes: Sequence[Node]) -> UserError:
    wanted = ", ".join(f"{key}={value}" for key, value in share.labels.items())
    there = "; ".join(
        f"their {key}: {', '.join(values) or 'none'}"
        for key in share.labels
        for values in [sorted({n.labels[key] for n in nodes if key in n.labels})]
    )
    return UserError(
        f"nodes with {wanted} are asked for; none of the {_count(nodes)} of the cluster "
        f"has that ({there}); change the labels, or add such a node",
        cause="no_such_label",
    )


def _fitting(name: str, available: float, each: float) -> int:
    if name in _WHOLE_DEVICES and each < 1:
        # A replica's share lies on one device: 0.4 fits twice on each, not five times on two.
        return math.floor(available) * math.floor(1 / each + _ALMOST)
    return math.floor(available / each + _ALMOST)


def _has_labels(node: Node, share: Share) -> bool:
    return all(_matches(node.labels.get(key), said) for key, said in share.labels.items())


def _matches(value: str | None, selector: str) -> bool:
    parsed = _SELECTOR.fullmatch(check_selector(selector))
    assert parsed is not None
    negated, single, several = parsed.groups()
    values = [single] if single is not None else [v.strip() for v in several.split(",")]
    return (value in values) is not bool(negated)


def _is_kind(name: str) -> bool:
    return name.startswith("accelerator_type:")


def _plural(name: str, amount: float) -> str:
    return f"{name}s" if name in ("CPU", "GPU") and amount != 1 else name


def _count(nodes: Sequence[Node]) -> str:
    return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
