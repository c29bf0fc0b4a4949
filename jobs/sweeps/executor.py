"""Where tasks run: replicas on Ray, or the twin in this process."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from cluster.backends.base import Backend
from cluster.lease import LeaseToken
from cluster.metrics import Metrics
from cluster.placement import Share, num_fitting
from cluster.policy import Policy
from cluster.storage import StorageSpec
from jobs.advice import advised
from jobs.console import say
from jobs.spec import ComputeSpec

if TYPE_CHECKING:  # Ray takes seconds to import
    from cluster.backends.ray_backend import RoomOf


class Executor:
    """A place to run tasks, opened step by step; closing it ends only what it started.

    Ray takes seconds to import and to start: it is joined early only where a running cluster has
    to be asked for its devices, and not started at all where nothing is left to compute.
    """

    def __init__(self, compute: ComputeSpec, stack: ExitStack) -> None:
        self._compute = compute
        self._stack = stack
        self._is_connected = False
        self._joined = False
        self._wait_s = 0.0
        self._room_of: RoomOf | None = None

    @property
    def is_in_process(self) -> bool:
        return self._compute.executor == "in_process"

    def without_replicas(self) -> Executor:
        """For a run whose tasks are all the driver's own: it neither starts nor joins Ray."""
        return Executor(self._compute.model_copy(update={"executor": "in_process"}), self._stack)

    def device(self) -> str | None:
        """The kind of device of a cluster that is there, or None where this machine decides."""
        if self.is_in_process:
            return None
        from cluster.backends.ray_session import cluster_to_join

        if cluster_to_join() is None:
            return None
        compute = self._compute
        if compute.device != "auto":
            return compute.device  # this machine need not have one
        # What is asked for may be on nodes that are still to come.
        if compute.gpus_per_replica != "auto" and compute.gpus_per_replica > 0:
            return "cuda"
        if "TPU" in compute.resources:
            return "xla"
        self._connect()
        from cluster.backends.ray_nodes import num_cluster

        if num_cluster("GPU") > 0:
            return "cuda"
        return "xla" if num_cluster("TPU") > 0 else None

    @advised()
    def num_replicas(self, device: str, num_tasks: int) -> int:
        """How many replicas there is room for, once there is room for one.

        With `replicas: auto` the run then follows what room there is.

        Raises:
            UserError: the cluster cannot be reached or has no room.
        """
        if self.is_in_process:
            return 1
        self._connect()
        from cluster.backends.ray_nodes import (
            AUTOSCALER_WAIT_S,
            has_autoscaler,
            resolve_num_replicas,
        )

        compute, share = self._compute, self.share(device)
        if compute.wait_for_nodes_s != "auto":
            self._wait_s = compute.wait_for_nodes_s
        elif self._joined and has_autoscaler():
            self._wait_s = AUTOSCALER_WAIT_S
        num_replicas = resolve_num_replicas(
            None if compute.replicas == "auto" else compute.replicas,
            share,
            num_tasks,
            wait_s=self._wait_s,
            wait_set_by="compute.wait_for_nodes_s",
            say=say,
        )
        if compute.replicas == "auto":
            self._room_of = lambda nodes: sum(num_fitting(node, share) for node in nodes)
        say(f"{num_replicas} replica{'s' if num_replicas > 1 else ''} on {device}")
        return num_replicas

    def backend(self, storage: StorageSpec, lease: LeaseToken) -> Backend:
        """Where replicas run; each must find the driver's lease in its storage."""
        if self.is_in_process:
            from cluster.backends.in_process import InProcessBackend

            return self._stack.enter_context(InProcessBackend(storage))
        self._connect()
        from cluster.backends.ray_backend import RayBackend

        return self._stack.enter_context(RayBackend(storage, lease, self._room_of))

    def metrics(self, run: str) -> Metrics | None:
        """Numbers for a monitor, under the name of the run; None where nobody exports them."""
        if self.is_in_process:
            return None
        self._connect()
        from cluster.backends.ray_metrics import RayMetrics

        return RayMetrics(run)

    def policy(self) -> Policy:
        """How patient the run is, once the number of replicas is known."""
        return Policy(wait_for_nodes_s=self._wait_s)

    def share(self, device: str) -> Share:
        """What each replica asks the cluster for."""
        compute = self._compute
        resources = dict(compute.resources)
        if device == "xla" and not self.is_in_process and "TPU" not in resources:
            self._connect()
            from cluster.backends.ray_nodes import num_cluster

            # A process that does not ask for its chip would share one with others.
            if num_cluster("TPU") > 0:
                resources["TPU"] = 1.0
        return Share(
            cpus=compute.num_threads,
            gpus=gpus_of(compute, device),
            accelerator_type=compute.accelerator_type,
            resources=resources,
            labels=dict(compute.labels),
        )

    @advised()
    def _connect(self) -> None:
        if not self._is_connected:
            from cluster.backends.ray_session import cluster_to_join, ray_session

            self._joined = cluster_to_join() is not None
            say("connecting to Ray ...")
            self._stack.enter_context(ray_session())
            self._is_connected = True


def gpus_of(compute: ComputeSpec, device: str) -> float:
    """GPUs that each replica asks for."""
    wanted = compute.gpus_per_replica
    return float(device == "cuda") if wanted == "auto" else wanted
