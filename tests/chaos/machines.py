"""The places of a trial: a Ray cluster that can be hurt, an S3 server, a small disk."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from tests.chaos.judge import PaidJudge
from tests.chaos.proxy import FaultProxy
from tests.support.s3 import BUCKET, s3_server

# Nodes that come and go would fill the output with advice.
logging.getLogger("ray").setLevel(logging.ERROR)

REPOSITORY = Path(__file__).parents[2]
OBJECT_STORE_BYTES = 80 * 2**20
# A dead node is noticed in about 1.5 s, not in 14.
_HEALTH = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
SHAPES = {"one node": 2, "three nodes": 3}
"Slots of each shape that is drawn: two on one node, one on each of several beside the head."
MORE_SHAPES = {"two nodes": 2}


class RayMachines:
    """A Ray cluster of a shape, brought back to it by `heal`."""

    def __init__(self, shape: str) -> None:
        self.shape = shape
        self.num_slots = (SHAPES | MORE_SHAPES)[shape]
        self._cluster: Any = None
        self.heal()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def heal(self) -> None:
        """Bring back what is missing, and take away what was added."""
        if self._cluster is not None and not self._is_alive(self._cluster.head_node):
            self.close()
        if self._cluster is None:
            self._cluster = Cluster(
                initialize_head=True,
                shutdown_at_exit=False,
                head_node_args={
                    "num_cpus": 2 if self.shape == "one node" else 0,
                    "include_dashboard": False,
                    "object_store_memory": OBJECT_STORE_BYTES,
                    "_system_config": _HEALTH,
                },
            )
        if self.shape != "one node":
            for node in list(self._cluster.worker_nodes):
                if not self._is_alive(node):
                    self._cluster.remove_node(node, allow_graceful=False)
            for node in self._nodes()[self.num_slots :]:
                self._cluster.remove_node(node)
            while len(self._cluster.worker_nodes) < self.num_slots:
                self.add_node()

    @property
    def num_places(self) -> int:
        """Replicas that there is room for now."""
        return self.num_slots if self.shape == "one node" else len(self._nodes())

    def add_node(self) -> None:
        self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)

    def remove_node(self, number: int) -> bool:
        """Take a node away politely; False where none is left to take."""
        nodes = self._nodes()
        if nodes:
            self._cluster.remove_node(nodes[number % len(nodes)])
        return bool(nodes)

    def drain_node(self, number: int, within_s: float) -> bool:
        """Say that a node will be gone, and take it away then; False where none is left."""
        nodes = self._nodes()
        if nodes:
            node = nodes[number % len(nodes)]
            self.drain_node_of(node.node_id, within_s)
            time.sleep(within_s)
            self._cluster.remove_node(node)
        return bool(nodes)

    def drain_node_of(self, node_id: str, within_s: float) -> None:
        """Tell Ray what an autoscaler or a preemption notice tells it of a node."""
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + within_s) * 1000)
        gcs = GcsClient(address=self.address)
        accepted, why = gcs.drain_node(node_id, reason, "", deadline_ms)
        assert accepted, why

    def remove_node_of(self, node_id: str) -> None:
        """Take away the node of that id."""
        (node,) = [node for node in self._nodes() if node.node_id == node_id]
        self._cluster.remove_node(node)

    def kill_raylet(self, number: int) -> bool:
        """SIGKILL a node's raylet; on one node that is the end of the cluster."""
        nodes = self._nodes() or [self._cluster.head_node]
        node = nodes[number % len(nodes)]
        for info in node.all_processes.get("raylet", []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(info.process.pid, signal.SIGKILL)
                info.process.wait(10)
        return True

    def raylets(self) -> set[int]:
        """Process ids of the raylets."""
        nodes = [self._cluster.head_node, *self._cluster.worker_nodes]
        return {i.process.pid for node in nodes for i in node.all_processes.get("raylet", [])}

    def close(self) -> None:
        """End what was started."""
        if self._cluster is not None:
            for node in list(self._cluster.worker_nodes):
                self._cluster.remove_node(node, allow_graceful=False)
            self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)
            self._cluster = None

    def _nodes(self) -> list[Any]:
        alive = [node for node in self._cluster.worker_nodes if self._is_alive(node)]
        return sorted(alive, key=lambda node: str(node.unique_id))

    @staticmethod
    def _is_alive(node: Any) -> bool:
        raylets = node.all_processes.get("raylet", [])
        return bool(raylets) and raylets[0].process.poll() is None


class SmallDisk:
    """A folder that can be full: a tmpfs where one may be mounted, else a flag that writers see."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "disk"
        self.root.mkdir()
        self.flag = folder / "disk-full"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=48m", "steersweep-chaos", str(self.root)],
            capture_output=True,
        )
        self.is_mounted = mounted.returncode == 0

    def describe(self) -> str:
        return "a tmpfs of 48 MiB" if self.is_mounted else "writes that fail with ENOSPC"

    def fill(self) -> None:
        if not self.is_mounted:
            self.flag.touch()
            return
        with contextlib.suppress(OSError), (self.root / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))

    def empty(self) -> None:
        self.flag.unlink(missing_ok=True)
        (self.root / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.root)], check=False)


class World:
    """Everything that trials share."""

    def __init__(self, folder: Path, proxy: FaultProxy, s3_endpoint: str, judge: PaidJudge) -> None:
        self.folder = folder
        self.proxy = proxy
        self.s3_endpoint = s3_endpoint
        self.judge = judge
        self.disk = SmallDisk(folder)
        self._machines: RayMachines | None = None

    def machines(self, shape: str) -> RayMachines:
        """The whole cluster of that shape; one of another shape is ended first."""
        if self._machines is None or self._machines.shape != shape:
            self.close_machines()
            self._machines = RayMachines(shape)
        self._machines.heal()
        return self._machines

    def close_machines(self) -> None:
        if self._machines is not None:
            self._machines.close()
            self._machines = None

    def fresh_output(self, storage: str) -> str:
        name = uuid.uuid4().hex[:8]
        return f"s3://{BUCKET}/{name}" if storage == "s3" else str(self.disk.root / name)

    def remove_output(self, uri: str) -> None:
        if not uri.startswith("s3://"):
            shutil.rmtree(uri, ignore_errors=True)


@contextlib.contextmanager
def world(*, keep: bool = False) -> Iterator[World]:
    """Start what all trials share, and end it. Only what was started here is ended.

    `keep`: leave the folder with what drivers and Ray said.
    """
    folder = Path(tempfile.mkdtemp(prefix="ch"))
    saved = {name: os.environ.get(name) for name in ("RAY_TMPDIR", "PYTHONPATH")}
    # Ray's sockets have long names: a short folder. Workers find the tests by PYTHONPATH.
    os.environ |= {"RAY_TMPDIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
    with s3_server() as upstream, FaultProxy(upstream) as proxy, PaidJudge().running() as judge:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        made = World(folder, proxy, upstream, judge)
        try:
            yield made
        finally:
            made.close_machines()
            made.disk.close()
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
            for name, value in saved.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_end(pid: int, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_running(pid)
