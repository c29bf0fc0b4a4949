"""Where replicas land on a real Ray cluster of three nodes, and what is refused or waited for.

Two nodes declare GPUs that are not there: Ray only counts them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.backends.ray_backend import RayBackend
from cluster.backends.ray_nodes import has_autoscaler, resolve_num_replicas
from cluster.placement import Share
from cluster.storage import StorageSpec
from cluster.tasks import Event, Pool, ReplicaPlaced, ReplicaReady, WorkerFactory
from steersweep.errors import UserError
from tests.support.sweeps import steersweep, write_spec

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Machines:
    """The cluster, and the process ids of the node managers of its two nodes with GPUs."""

    cluster: Any
    eu: int
    us: int


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        common = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **common}
        )
        try:
            eu = cluster.add_node(num_cpus=4, num_gpus=1, labels={"zone": "eu"}, **common)
            us = cluster.add_node(
                num_cpus=8,
                num_gpus=2,
                labels={"zone": "us"},
                resources={"fast_disk": 1, "accelerator_type:A100": 1},
                **common,
            )
            ray.init(
                address=cluster.address,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": str(REPOSITORY)}},
            )
            yield Machines(cluster, manager_of(eu), manager_of(us))
        finally:
            ray.shutdown()
            cluster.shutdown()


def manager_of(node: Any) -> int:
    """Process id of a node's manager, the parent of its replicas."""
    return int(node.all_processes["raylet"][0].process.pid)


@pytest.fixture
def backend(machines: Machines, tmp_path: Path) -> Iterator[RayBackend]:
    with RayBackend(StorageSpec(str(tmp_path / "out"))) as backend:
        yield backend


def start(backend: RayBackend, *shares: Share) -> None:
    factory = WorkerFactory("tests.support.workers:ScriptedWorker")
    for slot, share in enumerate(shares):
        backend.start(slot, Pool("a", factory, share))


def events_of(backend: RayBackend, num: int) -> list[Event]:
    """The first events, so many of them."""
    events: list[Event] = []
    for _ in range(900):  # three minutes: five processes start at a time
        if len(events) >= num:
            break
        events += backend.poll(0.2)
    return events


def parents(events: list[Event]) -> dict[int, int]:
    """Node manager of each slot's replica."""
    return {e.slot: int(e.facts["parent"]) for e in events if isinstance(e, ReplicaReady)}


def test_a_replica_lands_on_the_node_that_has_what_it_asks_for(
    machines: Machines, backend: RayBackend
) -> None:
    start(
        backend,
        Share(labels={"zone": "us"}),
        Share(resources={"fast_disk": 1.0}),
        Share(accelerator_type="A100"),
        Share(labels={"zone": "!us"}),
        Share(gpus=2.0),
    )
    us, eu = machines.us, machines.eu
    assert parents(events_of(backend, 10)) == {0: us, 1: us, 2: us, 3: eu, 4: us}


def test_four_replicas_share_one_gpu_and_a_fifth_waits_for_its_place(
    machines: Machines, backend: RayBackend
) -> None:
    quarter = Share(cpus=0.5, gpus=0.25, labels={"zone": "eu"})
    assert resolve_num_replicas(None, quarter, 99) == 4
    start(backend, *[quarter] * 5)
    events = events_of(backend, 8)
    assert sum(isinstance(event, ReplicaPlaced) for event in events) == 4
    ready = parents(events)
    assert list(ready.values()) == [machines.eu] * 4
    (waiting,) = set(range(5)) - set(ready)
    backend.stop(next(iter(ready)))  # makes room
    placed, fifth = events_of(backend, 2)
    assert placed == ReplicaPlaced(waiting)
    assert isinstance(fifth, ReplicaReady)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ({"gpus_per_replica": 4}, "asks for 4 GPUs; the largest node has 2 ("),
        ({"cpus_per_replica": 9}, "asks for 9 CPUs; the largest node has 8 ("),
        ({"resources": {"TPU": 4}}, "such a node (compute.resources.TPU)"),
        ({"labels": {"zone": "asia"}}, "or add such a node (compute.labels)"),
        ({"accelerator_type": "H100"}, "an accelerator H100; the 3 nodes"),
        ({"replicas": 13, "gpus_per_replica": 0.25}, "13 replicas with 1 CPU and 0.25"),
    ],
)
def test_what_no_node_has_is_refused_in_one_line_and_nothing_is_written(
    machines: Machines, tmp_path: Path, compute: dict[str, Any], said: str
) -> None:
    spec = write_spec(tmp_path / "spec.yaml", compute={"device": "cpu", **compute})
    finished = steersweep("run", str(spec))
    assert finished.code == 2
    assert said in finished.err
    assert finished.err.count("\n") == 1
    assert not any(Path(tmp_path, "out").rglob("*.*"))


@pytest.mark.nightly
def test_a_sweep_runs_where_its_labels_say(machines: Machines, tmp_path: Path) -> None:
    compute = {"device": "cpu", "replicas": 1, "gpus_per_replica": 0.5, "labels": {"zone": "us"}}
    spec = write_spec(
        tmp_path / "spec.yaml",
        compute=compute,
        steering={"layers": [1], "coeffs": [4]},
        data={"path": "embedded:examples.json", "limit": 2, "bias_types": ["race"]},
    )
    finished = steersweep("run", str(spec))
    assert finished.code == 0, finished.err
    assert "1 replica on cpu" in finished.out


def test_a_node_is_waited_for_no_longer_than_was_said(machines: Machines) -> None:
    with pytest.raises(
        UserError, match=r"no node with enough room joined within 0\.1 s: .* the largest node"
    ):
        resolve_num_replicas(1, Share(gpus=4.0), 9, wait_s=0.1)


def test_a_node_that_comes_is_used(machines: Machines, backend: RayBackend) -> None:
    assert not has_autoscaler()
    said: list[str] = []
    joined: list[Any] = []

    def say(line: str) -> None:
        said.append(line)
        if not joined:
            joined.append(machines.cluster.add_node(num_cpus=1, resources={"late": 1}))

    share = Share(resources={"late": 1.0})
    assert resolve_num_replicas(2, share, 9, wait_s=120.0, say=say) == 2
    assert said[0].startswith("waiting for a node with 1 CPU, 0 GPUs and 1 late: ")
    assert said[-1] == "room for 1 of 2 replicas; the others start when nodes join"
    start(backend, share)
    assert parents(events_of(backend, 2)) == {0: manager_of(joined[0])}
