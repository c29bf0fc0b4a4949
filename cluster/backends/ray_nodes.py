"""The nodes of the Ray cluster that this process is connected to, and room for replicas on them."""

from __future__ import annotations

import inspect
import json
import logging
import time
from collections.abc import Callable

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from cluster.placement import Node, Share, num_fitting, num_replicas, why_no_room
from steersweep.errors import UserError

logger = logging.getLogger(__name__)

AUTOSCALER_WAIT_S = 1800.0
"""How long a node is waited for where an autoscaler is there and no other time is named."""
_LOOK_S = 2.0
_SAY_EVERY_S = 30.0


def nodes() -> list[Node]:
    """The nodes that are alive."""
    return [
        Node(node["Resources"], node.get("Labels") or {}) for node in ray.nodes() if node["Alive"]
    ]


def num_cluster(resource: str) -> float:
    """Amount of a resource on all nodes, in use or not."""
    return sum(node.resources.get(resource, 0.0) for node in nodes())


def resolve_num_replicas(
    requested: int | None,
    share: Share,
    num_tasks: int,
    *,
    wait_s: float = 0.0,
    wait_set_by: str = "",
    say: Callable[[str], None] = logger.info,
) -> int:
    """How many replicas to run: `requested`, or for None what fits the cluster, at least 1.

    Never more than there are tasks. Where there is no room for one, a node is waited for for
    `wait_s` seconds, and `say` is told so, with the name of the setting `wait_set_by`; the others
    of `requested` may come later then.

    Raises:
        UserError: the cluster has room for fewer, or for none when the wait is over; labels
            are asked for and this Ray cannot select by them.
    """
    if share.labels and not can_select_labels():
        raise UserError(
            f"labels need a Ray that can place by them, and this is {ray.__version__}; update Ray "
            "on every node",
            cause="ray_without_labels",
        )
    if wait_s > 0 and not any(num_fitting(node, share) for node in nodes()):
        _wait_for_room(share, wait_s, wait_set_by, say)
    there = nodes()
    wanted = num_replicas(requested, share, there, num_tasks, may_grow=wait_s > 0)
    fits = sum(num_fitting(node, share) for node in there)
    if wanted > fits:
        say(f"room for {fits} of {wanted} replicas; the others start when nodes join")
    return wanted


def can_select_labels() -> bool:
    """Whether this Ray places by the labels of nodes."""
    return "bundle_label_selector" in inspect.signature(placement_group).parameters


def _wait_for_room(share: Share, wait_s: float, set_by: str, say: Callable[[str], None]) -> None:
    """Until a node has a place for one replica; asks for it, so that an autoscaler adds the node.

    Raises:
        UserError: none came in time.
    """
    start = time.monotonic()
    asked = _ask_for_place(share)
    said_at = -_SAY_EVERY_S
    try:
        while not asked.wait(_LOOK_S):
            waited_s = time.monotonic() - start
            if waited_s > wait_s:
                reason = why_no_room(1, share, nodes())
                raise UserError(
                    f"no node with enough room joined within {wait_s:g} s: {reason}",
                    cause=reason.cause,
                    **reason.facts,
                )
            if waited_s - said_at >= _SAY_EVERY_S:
                said_at = waited_s
                by = f" ({set_by})" if set_by else ""
                say(f"waiting for a node with {share}: {waited_s:.0f} of {wait_s:g} s{by}")
    finally:
        remove_placement_group(asked)


def _ask_for_place(share: Share) -> PlacementGroup:
    if share.labels:
        return placement_group([share.amounts()], bundle_label_selector=[dict(share.labels)])
    return placement_group([share.amounts()])


def has_autoscaler() -> bool:
    """Whether something adds nodes to this cluster when work asks for them, as far as Ray tells.

    `ray start --head` runs Ray's monitor too, which then only reads: the kinds of its nodes are
    called after the nodes themselves.
    """
    try:
        kinds = _kinds_that_can_grow() | _kinds_of_status() | _kinds_of_new_status()
    except (RayError, ImportError, AttributeError, ValueError, KeyError, TypeError) as error:
        # None of this is Ray's public interface: it may be gone in another version.
        logger.warning("could not ask Ray for its autoscaler: %s", error)
        return False
    return any(not kind.startswith("node_") for kind in kinds)


def _kinds_that_can_grow() -> set[str]:
    """As platforms report it that have their own autoscaler."""
    config = ray._private.state.state.get_cluster_config()
    groups = [] if config is None else config.node_group_configs
    return {
        group.name or "unnamed"
        for group in groups
        if group.max_count == -1 or group.max_count > group.min_count
    }


def _kinds_of_status() -> set[str]:
    """As Ray's first autoscaler reports it."""
    from ray.experimental.internal_kv import _internal_kv_get

    text = _internal_kv_get(b"__autoscaling_status")
    report = json.loads(text).get("autoscaler_report") if text else None
    if not report:
        return set()
    return {*report["active_nodes"], *(report.get("node_type_mapping") or {}).values()}


def _kinds_of_new_status() -> set[str]:
    """As Ray's second autoscaler reports it."""
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if not is_autoscaler_v2(fetch_from_server=True):
        return set()
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    if not status.stats.autoscaler_version:
        return set()
    found = [*status.active_nodes, *status.idle_nodes]
    return {node.ray_node_type_name for node in found if node.ray_node_type_name}
