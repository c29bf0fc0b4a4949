"""Calls made by tasks on the cluster that this process is connected to.

The tasks ask for no CPU and no GPU. When a run ends, its replicas may still hold all of them, and
other jobs do on a shared cluster: a task that asked for one would wait for as long as they run, and
an autoscaler would add a node for a minute of reading. The caller bounds how many run at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from cluster.errors import LostCallError

Value = TypeVar("Value")

WAIT_S = 900.0
"""After this time without a result a call counts as lost, so that a cluster that lost its nodes
cannot hold up the end of a run."""


def num_nodes() -> int:
    """Nodes of the cluster that this process is connected to; 0: it is connected to none."""
    return sum(node["Alive"] for node in ray.nodes()) if ray.is_initialized() else 0


def begin(call: Callable[[], Value], what: str, wait_s: float = WAIT_S) -> Callable[[], Value]:
    """Begin a call on some node; gives what waits for its result.

    Args:
        call: can be pickled, and so can its result.
        what: the call in words: ``reading rows``.

    Raises, when the result is waited for:
        LostCallError: there is none, be it for the node or for an error that the call raised there.
    """
    reference = _task().remote(call)

    def wait() -> Value:
        done, _ = ray.wait([reference], timeout=wait_s)
        if not done:
            ray.cancel(reference, force=True)
            raise LostCallError(f"{what} on the cluster took more than {wait_s:g} s")
        try:
            value: Value = ray.get(reference)
        except RayError as error:
            # An error of the call itself is raised again, in its own type, where it is repeated.
            reason = str(error).strip().splitlines()[-1]
            raise LostCallError(f"{what} on the cluster failed ({reason})") from error
        return value

    return wait


@cache
def _task() -> Any:
    options = {"num_cpus": 0, "num_gpus": 0, "max_retries": 2, "scheduling_strategy": "SPREAD"}
    return ray.remote(**options)(_called)


def _called(call: Callable[[], Any]) -> Any:
    return call()
