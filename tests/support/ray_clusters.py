"""A Ray cluster of several nodes on this machine, with its dashboard on the loopback address."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True)
class Machines:
    """A running cluster: the address of its dashboard, and where the head keeps its files."""

    address: str
    head_folder: Path


@contextmanager
def ray_machines(num_workers: int, environment: Mapping[str, str]) -> Iterator[Machines]:
    """A head without CPUs and workers with one each, which know our packages by no path.

    `environment`: what their processes have beside that of this one.
    """
    folder = Path(tempfile.mkdtemp(prefix="rm"))
    # First on the path, so that only a package that travelled can be imported.
    for name in ("jobs", "cluster", "steering_core", "steersweep"):
        (folder / "poison" / name).mkdir(parents=True)
        (folder / "poison" / name / "__init__.py").write_text("raise ImportError('not ours')\n")
    changes = {
        # Ray's sockets have long names: a short folder.
        "RAY_TMPDIR": str(folder / "h"),
        # A token that somebody has made on this machine would be asked for.
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(folder / "poison"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **environment,
    }
    saved = {name: os.environ.get(name) for name in (*changes, "RAY_ADDRESS")}
    os.environ.update(changes)
    os.environ.pop("RAY_ADDRESS", None)
    cluster = None
    try:
        # Ports that every node of a machine would take as its own are left to chance.
        node = {"object_store_memory": _STORE_BYTES, "dashboard_agent_listen_port": 0}
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
        cluster = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,
            head_node_args=node | head | {"dashboard_host": "127.0.0.1"},
        )
        for number in range(num_workers):
            # A folder each: nodes unpack what travels into their own.
            cluster.add_node(num_cpus=1, temp_dir=str(folder / f"n{number}"), **node)
        for name, value in saved.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        session = Path(cluster.head_node.get_session_dir_path())
        yield Machines(f"http://{cluster.webui_url}", session)
    finally:
        for name, value in saved.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if cluster is not None:
            for worker in list(cluster.worker_nodes):
                cluster.remove_node(worker, allow_graceful=False)
            cluster.remove_node(cluster.head_node, allow_graceful=False)
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
