"""Where tasks run: replicas on Ray, or the twin in this process."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from cluster.backends.base import Backend
from cluster.lease import LeaseToken
from cluster.metrics import Metrics
from cluster.storage import StorageSpec
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
        self._room_of: RoomOf | None = None

    @property
    def is_in_process(self) -> bool:
        return self._compute.executor == "in_process"

    def device(self) -> str | None:
        """The kind of device of a cluster that is there, or None where this machine decides."""
        if self.is_in_process or self._compute.device != "auto":
            return None
        from cluster.backends.ray_session import cluster_to_join, num_cluster_gpus

        if cluster_to_join() is None:
            return None
        self._connect()
        return "cuda" if num_cluster_gpus() > 0 else None

    def num_replicas(self, device: str, num_tasks: int) -> int:
        """How many replicas there is room for; `replicas: auto` then follows what room there is.

        Raises:
            UserActionError: the cluster cannot be reached or has no room.
        """
        if self.is_in_process:
            return 1
        self._connect()
        from cluster.backends.ray_session import num_fitting, resolve_num_replicas

        compute = self._compute
        num_replicas = resolve_num_replicas(
            None if compute.replicas == "auto" else compute.replicas,
            compute.cpus_per_replica,
            self.gpus_per_replica(device),
            num_tasks,
        )
        if compute.replicas == "auto":
            cpus, gpus = compute.cpus_per_replica, self.gpus_per_replica(device)
            self._room_of = lambda nodes: int(num_fitting(nodes, cpus, gpus))
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

    def gpus_per_replica(self, device: str) -> float:
        """GPUs that each replica asks the cluster for."""
        wanted = self._compute.gpus_per_replica
        return float(device == "cuda") if wanted == "auto" else wanted

    def _connect(self) -> None:
        if not self._is_connected:
            from cluster.backends.ray_session import ray_session

            say("connecting to Ray ...")
            self._stack.enter_context(ray_session())
            self._is_connected = True
