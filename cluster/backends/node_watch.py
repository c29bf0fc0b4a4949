"""Watches the nodes of the Ray cluster: which are there, and which are being taken away."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence

import ray
from ray._private import state as ray_state

from cluster.placement import Node

logger = logging.getLogger(__name__)

NODE_CHECK_S = 2.0


class NodeWatch:
    """Asks Ray every two seconds, in a thread: a head that is gone takes a minute to say nothing.

    The driver's own node is among them. When it dies, Ray places nothing of this driver any more,
    and says so only for actors that were placed before: a start would be waited for until its
    deadline.

    What is read of it is replaced as a whole, never changed.
    """

    def __init__(self) -> None:
        self.own_is_dead = False
        self.usable: Sequence[Node] | None = None
        "Each node that lives and stays; None before the first look."
        self.draining: Mapping[str, float] = {}
        "Id of each node that is being taken away, and when, in seconds since the epoch."
        self.draining_actors: Mapping[str, float] = {}
        "The same by the id of each actor `of_interest` that is on one."
        self.of_interest: Sequence[str] = ()
        self._own_id = ray.get_runtime_context().get_node_id()
        # What Ray's own libraries ask; not every version has it.
        self._ask_draining = getattr(ray_state.state, "get_draining_nodes", dict)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="node-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more; before Ray is disconnected."""
        self._closed.set()
        self._thread.join(NODE_CHECK_S)

    def _watch(self) -> None:
        while not (self.own_is_dead or self._closed.is_set()):
            try:
                self._look()
            except Exception as error:  # no answer is no news of the nodes
                logger.warning("could not ask Ray for its nodes: %s", error)
            self._closed.wait(NODE_CHECK_S)

    def _look(self) -> None:
        nodes = ray.nodes()
        self.own_is_dead = any(n["NodeID"] == self._own_id and not n["Alive"] for n in nodes)
        draining = {
            # Ray's 0 stands for a node that waits until nothing runs on it.
            node: deadline_ms / 1000 if deadline_ms else math.inf
            for node, deadline_ms in self._ask_draining().items()
        }
        self.draining_actors = {
            actor: draining[node]
            for actor in (self.of_interest if draining else ())
            if (node := _node_of(actor)) in draining
        }
        self.draining = draining
        self.usable = [
            Node(n["Resources"], n.get("Labels") or {})
            for n in nodes
            if n["Alive"] and n["NodeID"] not in draining
        ]


def _node_of(actor_id: str) -> str:
    """Id of the node that an actor is on; empty while it is on none."""
    return str(ray_state.actors(actor_id).get("Address", {}).get("NodeID", ""))
